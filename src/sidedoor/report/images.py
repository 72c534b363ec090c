"""Arrays as PNG data URIs that a page carries within itself."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
AMPLIFICATION = 10
LARGEST = 128
"""Images with a longer side are reduced to so many pixels."""


def residual(clean: Pixels, stamped: Pixels) -> Pixels:
    """The difference of two images times AMPLIFICATION, around a middle grey that means no change."""
    difference = stamped.astype(np.int32) - clean.astype(np.int32)
    return np.clip(128 + AMPLIFICATION * difference, 0, 255).astype(np.uint8)


def stored(values: npt.NDArray[Any]) -> Pixels:
    """Floats in [0, 1] as bytes; anything else is first stretched from its own range."""
    given = np.nan_to_num(np.asarray(values, dtype=np.float64), posinf=0, neginf=0)
    low, high = float(given.min()), float(given.max())
    if low < 0 or high > 1:
        given = (given - low) / (high - low)
    return np.rint(given * 255).astype(np.uint8)


def data_uri(image: Pixels) -> str:
    """A (c, h, w) or (h, w) image as a PNG; where there are neither one nor three channels, their mean is drawn."""
    planes = image[None] if image.ndim == 2 else image
    if planes.shape[0] not in (1, 3):
        planes = planes.mean(0, keepdims=True).astype(np.uint8)
    picture = Image.fromarray(planes[0] if planes.shape[0] == 1 else np.ascontiguousarray(planes.transpose(1, 2, 0)))
    if max(picture.size) > LARGEST:
        picture.thumbnail((LARGEST, LARGEST))
    written = io.BytesIO()
    picture.save(written, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"
