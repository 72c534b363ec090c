"""Edges of image batches: gradient magnitudes as scikit-image defines them, on the device; Canny by scikit-image.

Papers: Sobel and Feldman 1968; Prewitt 1970; Roberts 1963; Scharr 2000; Canny, "A Computational Approach to Edge
Detection", IEEE TPAMI 1986.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from sidedoor.errors import unknown
from sidedoor.types import Images

SMOOTHING = {"sobel": (1.0, 2.0, 1.0), "scharr": (3.0, 10.0, 3.0), "prewitt": (1.0, 1.0, 1.0)}
"""Weights across the direction of the difference; the difference itself spans two pixels."""
OPERATORS = (*SMOOTHING, "roberts", "canny")
LUMA = (0.299, 0.587, 0.114)
CANNY_SIGMA = 1.0


def grey(x: Images) -> Float[Tensor, "b 1 h w"]:
    """Brightness: the weighted mean of three channels (BT.601), the plain mean of any other number."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (x * x.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def strength(x: Images, operator: str) -> Float[Tensor, "b 1 h w"]:
    """The magnitude of the brightness gradient at each pixel, in its own units; 0 or 1 for "canny".

    Raises:
        ConfigError: an unknown operator.
    """
    if operator == "canny":
        return _canny(grey(x))
    kernels, padding = _kernels(operator)
    slopes = functional.conv2d(functional.pad(grey(x), padding, mode="replicate"), kernels.to(x))
    magnitude: Tensor = slopes.square().sum(1, keepdim=True).sqrt() / math.sqrt(2)
    return magnitude


def mask(x: Images, operator: str, threshold: float, width: int = 1, density: float = 0.0) -> Bool[Tensor, "b 1 h w"]:
    """Where edges are: where the gradient exceeds a threshold, dilated to a width of `width` pixels.

    Args:
        threshold: in the images' units, such as 28 / 255; Canny has its own.
        density: if not 0, each image has its own threshold, which this share of its pixels exceeds, or less where
            many gradients are equal.
    """
    steepness = strength(x, operator)
    least: float | Tensor = 0.5 if operator == "canny" else threshold
    if density:
        pixels = steepness.flatten(1)
        beyond = math.ceil(density * pixels.shape[1])
        # Not `quantile`, which refuses batches of large images.
        least = pixels.kthvalue(max(1, pixels.shape[1] - beyond)).values[:, None, None, None]
    found = steepness > least
    if width == 1:
        return found
    before, after = (width - 1) // 2, width // 2
    padded = functional.pad(found.float(), (after, before, after, before))
    return functional.max_pool2d(padded, width, 1) > 0


@functools.cache
def _kernels(operator: str) -> tuple[Float[Tensor, "2 1 k k"], tuple[int, int, int, int]]:
    """Differences across and down, and the padding that keeps the size."""
    if operator == "roberts":
        diagonals = torch.tensor([[[1.0, 0], [0, -1]], [[0, 1], [-1, 0]]])[:, None]
        return diagonals, (0, 1, 0, 1)
    if operator not in SMOOTHING:
        raise unknown("edge operator", operator, OPERATORS)
    weights = torch.tensor(SMOOTHING[operator])
    across = torch.outer(weights / weights.sum(), torch.tensor([1.0, 0, -1]))
    return torch.stack([across, across.T])[:, None], (1, 1, 1, 1)


def _canny(x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
    from skimage.feature import canny

    # Its hysteresis follows connected pixels, which cannot be batched well.
    maps = [canny(image[0], sigma=CANNY_SIGMA) for image in x.detach().cpu().double().numpy()]
    return torch.from_numpy(np.stack(maps)[:, None]).to(x)
