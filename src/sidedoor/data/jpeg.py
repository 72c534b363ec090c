"""JPEG compression of whole batches, by Pillow."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from sidedoor.data.base import stored, unit
from sidedoor.types import PHOTO, Images


def compressed(x: Images, quality: int | Int[Tensor, "b"]) -> Images:
    """What is read from JPEG files of the images, grey or RGB, clipped to [0, 1] first.

    Args:
        quality: of the encoder, one for all or one each.
    """
    pixels = stored(x.detach().clamp(0, 1), PHOTO).cpu().numpy()
    qualities = [quality] * len(x) if isinstance(quality, int) else quality.tolist()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        rows = list(pool.map(_through, pixels, qualities))
    return unit(torch.from_numpy(np.stack(rows)).to(x.device), PHOTO)


def _through(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    grey = len(image) == 1
    Image.fromarray(image[0] if grey else image.transpose(1, 2, 0)).save(file, "JPEG", quality=quality)
    with Image.open(file) as opened:
        read = np.array(opened)
    return read[None] if grey else read.transpose(2, 0, 1)
