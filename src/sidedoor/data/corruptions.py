"""Common corruptions of photographs at five severities: noise, blur, light, and loss of detail.

Paper: Hendrycks, Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR
2019, arXiv:1903.12261.

Strengths of noise, light and compression are those of the paper's ImageNet-C. Widths of blurs follow its CIFAR-10-C, as
shares of the side. Photon noise is drawn from a normal distribution of the same variance, light is added to every
channel alike, and motion is uniform. What is random belongs to a sample, and is the same at every severity.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import functional as transforms

from sidedoor.core import random
from sidedoor.data.jpeg import compressed
from sidedoor.image.geometry import affine, warped
from sidedoor.types import Images, Index

SEVERITIES = 5
TAPS = 9
"""Copies that a motion or a zoom is the mean of."""

Corruption = Callable[[Images, Index, int, int], Images]
"""(x, index, severity from 1 to 5, seed) -> x in [0, 1]"""


def gaussian_noise(x: Images, index: Index, severity: int, seed: int) -> Images:
    deviation = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1]
    return (x + deviation * _normal(x, index, seed)).clamp(0, 1)


def shot_noise(x: Images, index: Index, severity: int, seed: int) -> Images:
    photons = (60, 25, 12, 5, 3)[severity - 1]
    return (x + (x / photons).sqrt() * _normal(x, index, seed)).clamp(0, 1)


def speckle_noise(x: Images, index: Index, severity: int, seed: int) -> Images:
    deviation = (0.15, 0.2, 0.35, 0.45, 0.6)[severity - 1]
    return (x + deviation * x * _normal(x, index, seed)).clamp(0, 1)


def impulse_noise(x: Images, index: Index, severity: int, seed: int) -> Images:
    """Salt and pepper, half each."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    draw = random.uniform(seed, index, *x.shape[1:])
    return torch.where(draw < share / 2, 0.0, torch.where(draw > 1 - share / 2, 1.0, x))


def gaussian_blur(x: Images, index: Index, severity: int, seed: int) -> Images:
    sigma = (0.4, 0.6, 0.7, 0.8, 1.0)[severity - 1] * max(x.shape[2:]) / 32
    size = [2 * min(math.ceil(3 * sigma), side // 2 - 1) + 1 for side in (x.shape[3], x.shape[2])]
    blurred: Tensor = transforms.gaussian_blur(x, size, [sigma, sigma])
    return blurred


def motion_blur(x: Images, index: Index, severity: int, seed: int) -> Images:
    """The mean along a line whose direction is each image's own; edges go on as they are."""
    length = (0.06, 0.09, 0.12, 0.16, 0.2)[severity - 1]
    angle = 2 * math.pi * random.uniform(seed, index, 1)
    step = 2 * length * torch.cat([angle.cos(), angle.sin()], 1)
    return along(x, step)


def zoom_blur(x: Images, index: Index, severity: int, seed: int) -> Images:
    """The mean while the picture grows about its centre."""
    largest = (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1]
    straight = torch.zeros(len(x), device=x.device)
    return torch.stack([warped(x, affine(x.shape, straight, 1 / zoom)) for zoom in _places(1.0, largest)]).mean(0)


def brightness(x: Images, index: Index, severity: int, seed: int) -> Images:
    return (x + (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]).clamp(0, 1)


def contrast(x: Images, index: Index, severity: int, seed: int) -> Images:
    mean = x.mean((2, 3), keepdim=True)
    return (mean + (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1] * (x - mean)).clamp(0, 1)


def pixelate(x: Images, index: Index, severity: int, seed: int) -> Images:
    """Fewer, larger pixels."""
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1]
    size = [max(1, int(share * side)) for side in x.shape[2:]]
    small = functional.interpolate(x, size, mode="area")
    return functional.interpolate(small, x.shape[2:], mode="nearest")


def jpeg(x: Images, index: Index, severity: int, seed: int) -> Images:
    return compressed(x, (25, 18, 15, 10, 7)[severity - 1])


CORRUPTIONS: dict[str, Corruption] = {function.__name__: function for function in (
    gaussian_noise, shot_noise, speckle_noise, impulse_noise, gaussian_blur, motion_blur, zoom_blur, brightness,
    contrast, pixelate, jpeg)}


def along(x: Images, step: Float[Tensor, "b 2"]) -> Images:
    """The mean of each image along a line, (across, down) in halves of the side; edges go on as they are."""
    identity = affine(x.shape, torch.zeros(len(x), device=x.device))
    grid = functional.affine_grid(identity, list(x.shape), align_corners=False)
    copies = [functional.grid_sample(x, grid + place * step[:, None, None], padding_mode="border", align_corners=False)
              for place in _places(-0.5, 0.5)]
    return torch.stack(copies).mean(0)


def _normal(x: Images, index: Index, seed: int) -> Float[Tensor, "b c h w"]:
    return random.normal(seed, index, *x.shape[1:])


def _places(first: float, last: float) -> list[float]:
    return [first + (last - first) * i / (TAPS - 1) for i in range(TAPS)]
