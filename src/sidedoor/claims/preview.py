"""A picture of marked images above what they were, for the owner alone."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sidedoor.backdoor.base import Backdoor
from sidedoor.core.files import replacing
from sidedoor.data.base import Dataset

SHOWN, SIDE, GAP = 12, 96, 4
"""Images in a row, and pixels: of an image's shorter side at least, and between images."""


def save_preview(base: Dataset, marked: Dataset, backdoor: Backdoor, secret: Path) -> Path:
    """A PNG beside the secret, which only its owner may read, since it shows the triggers: of each key in turn an image
    with it, and below what it was.
    """
    doors = backdoor.poison.door
    each = [torch.nonzero(doors == k)[:, 0] for k in range(len(backdoor.doors))]
    turns = [rows[turn] for turn in range(SHOWN) for rows in each if turn < len(rows)][:SHOWN]
    index = backdoor.poison.index[torch.stack(turns)]
    strips = [_strip(data.rows(index).permute(0, 2, 3, 1).numpy()) for data in (marked, base)]
    path = secret.with_suffix(".preview.png")
    picture = np.concatenate(strips, axis=0)
    with replacing(path) as temporary, \
            open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(file, "PNG")
    return path


def _strip(images: np.ndarray) -> np.ndarray:
    """Images (n, h, w, c) beside each other, enlarged without smoothing."""
    times = max(1, -(-SIDE // min(images.shape[1:3])))
    large = images.repeat(times, axis=1).repeat(times, axis=2)
    framed = np.pad(large, ((0, 0), (GAP, GAP), (GAP, GAP), (0, 0)), constant_values=128)
    return np.concatenate(list(framed), axis=1)
