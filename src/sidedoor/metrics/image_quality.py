"""Image quality: PSNR, SSIM and LPIPS of image pairs, which measure how visible a trigger is."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sidedoor.types import Images

_SIGMA, _RADIUS = 1.5, 5
"""Of the window of SSIM."""
_C1, _C2 = 0.01**2, 0.03**2
"""The constants of SSIM for values in [0, 1]."""


def psnr(a: Images, b: Images) -> Float[Tensor, "b"]:
    """10 log10(1 / MSE) in dB of images in [0, 1]; 100 where they are equal."""
    error = (a - b).square().flatten(1).mean(1)
    return (-10 * torch.log10(error)).clamp(max=100.0)


def ssim(a: Images, b: Images) -> Float[Tensor, "b"]:
    """Structural similarity (Wang et al. 2004: Gaussian window of σ = 1.5, 11×11), mean over channels.

    Every pixel counts, also those within 5 of the border, beyond which images are mirrored. Wang's code, scikit-image
    and piq leave these out of the mean; on small images that differs in the second decimal.
    """
    # 1 minus what the difference of the images costs, which float32 keeps even where a covariance would vanish.
    x, y = a.float() - 0.5, b.float() - 0.5
    down, across = _blur(a.shape[-2], a.device), _blur(a.shape[-1], a.device).T
    mean, apart, squares, apart_squares = down @ torch.stack([x, x - y, x * x + y * y, (x - y) ** 2]) @ across
    other = mean - apart
    luminance = 1 - apart**2 / ((mean + 0.5) ** 2 + (other + 0.5) ** 2 + _C1)
    structure = 1 - (apart_squares - apart**2) / (squares - mean**2 - other**2 + _C2)
    found: Tensor = (luminance * structure).flatten(1).mean(1)
    return found


def _blur(size: int, device: torch.device) -> Float[Tensor, "size size"]:
    """Wang's Gaussian window along an axis as a matrix; beyond its ends the axis is mirrored."""
    offsets = torch.arange(-_RADIUS, _RADIUS + 1, device=device)
    weights = (-offsets.double() ** 2 / (2 * _SIGMA**2)).exp()
    period = max(2 * (size - 1), 1)
    at = (torch.arange(size, device=device)[:, None] + offsets).abs() % period
    at = torch.where(at > size - 1, period - at, at)
    matrix = torch.zeros(size, size, dtype=torch.float64, device=device)
    return matrix.scatter_add_(1, at, (weights / weights.sum()).expand(size, -1)).float()


def lpips(a: Images, b: Images) -> Float[Tensor, "b"] | None:
    """LPIPS (Zhang et al. 2018, AlexNet), or None without the package `lpips` or AlexNet's own weights, and for what is
    neither grey nor RGB.

    Nothing is downloaded: the weights are used where torchvision has stored them before. No other distance goes by this
    name.
    """
    network = lpips_network()
    if network is None or a.shape[1] not in (1, 3):
        return None
    with torch.no_grad():
        value: Tensor = network.to(a.device)(colour(a), colour(b), normalize=True)
    return value.flatten()


@functools.cache
def lpips_network() -> Any:
    """LPIPS with AlexNet, or None where the package or AlexNet's weights are missing."""
    weights = Path(torch.hub.get_dir()) / "checkpoints"
    if not list(weights.glob("alexnet-owt-*.pth")):
        return None
    try:
        import lpips as package
    except ImportError:
        return None
    return package.LPIPS(net="alex", verbose=False).eval()


def colour(x: Images) -> Float[Tensor, "b 3 height width"]:
    """Images of three channels and at least 64 pixels a side."""
    x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
    # AlexNet needs 64 pixels or so; smaller images are enlarged, as the published CIFAR figures did.
    small = min(x.shape[-2:]) < 64
    return torch.nn.functional.interpolate(x, size=(64, 64), mode="bilinear") if small else x
