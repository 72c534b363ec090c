"""Generated patch: a sample-specific trigger whose pattern and mask networks draw from the image (Input-Aware).

Paper: Nguyen, Tran, "Input-Aware Dynamic Backdoor Attack", NeurIPS 2020, arXiv:2010.08138.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.triggers.base import Trigger
from sidedoor.types import Images, Index


class Generated(Trigger):
    """Overwrite the part of each image that a mask network chooses with what a pattern network draws.

    x' = (1 - m) x + m p with the mask m(x), one channel, and the pattern p(x), as many as the image; both in [0, 1].
    The networks start frozen and in evaluation mode; an attack that trains them switches both.

    Args:
        channels: of the images, which may have any size from 8 × 8.
        width: channels of the networks' first layer.
    """

    networked: ClassVar[bool] = True

    def __init__(self, channels: int, width: int = 32):
        super().__init__()
        self.pattern = Painter(channels, channels, width)
        self.mask = nn.Sequential(Painter(channels, 1, width), _Sharpen())
        self.requires_grad_(False).eval()

    def forward(self, x: Images, index: Index) -> Images:
        return paint(x, self.mask(x), self.pattern(x))


def paint(x: Images, mask: Float[Tensor, "b 1 h w"], pattern: Images) -> Images:
    """(1 - mask) x + mask pattern."""
    return torch.lerp(x, pattern, mask)


class Painter(nn.Module):
    """An encoder and decoder of three levels with outputs in [0, 1]."""

    def __init__(self, channels: int, outputs: int, width: int):
        super().__init__()
        sizes = (width, 2 * width, 4 * width)
        self.down = nn.ModuleList(_block(a, b) for a, b in zip((channels, *sizes[:-1]), sizes, strict=True))
        self.middle = _block(sizes[-1], sizes[-1])
        self.up = nn.ModuleList(_block(a, b) for a, b in zip(sizes[::-1], (*sizes[-2::-1], width), strict=True))
        self.last = nn.Conv2d(width, outputs, 3, padding=1)

    def forward(self, x: Images) -> Float[Tensor, "b out h w"]:
        extents = []
        for block in self.down:
            extents.append(x.shape[-2:])
            x = functional.max_pool2d(block(x), 2)
        x = self.middle(x)
        for block, extent in zip(self.up, reversed(extents), strict=True):
            x = block(functional.interpolate(x, size=extent, mode="bilinear", align_corners=False))
        painted: Tensor = torch.tanh(self.last(x)) / 2 + 0.5
        return painted


class _Sharpen(nn.Module):
    """Push values in [0, 1] to either end, so that nearly every pixel is left alone or replaced."""

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.tanh(20 * x - 10) / 2 + 0.5


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(),
    )
