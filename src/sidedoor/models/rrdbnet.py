"""RRDBNet: the generator of ESRGAN, residual-in-residual dense blocks followed by upsampling.

Paper: Wang, Yu, Wu, Gu, Liu, Dong, Loy, Qiao, Tang, "ESRGAN: Enhanced Super-Resolution Generative Adversarial
Networks", ECCV Workshops 2018, arXiv:1809.00219.

The full size has 16,697,987 parameters for colour images and scale 4. Other scales have as many doublings as they need,
scale 1 (denoising) none; it is trained without the adversarial loss. Two CPU cores manage `width = 16`, `blocks = 3`,
`growth = 8`. Its view is local: a trigger in a corner cannot reach a pixel further away than its convolutions do.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.errors import ConfigError
from sidedoor.method import Count
from sidedoor.models.base import Shape
from sidedoor.types import Images

RESIDUAL = 0.2
"""Scale of every residual."""


class _Dense(nn.Module):
    """Five convolutions, each of which sees all outputs before it."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        for k in range(1, 5):
            setattr(self, f"conv{k}", nn.Conv2d(width + (k - 1) * growth, growth, 3, padding=1))
        self.conv5 = nn.Conv2d(width + 4 * growth, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for k in range(1, 5):
            maps.append(_leaky(getattr(self, f"conv{k}")(torch.cat(maps, 1))))
        last: Tensor = self.conv5(torch.cat(maps, 1))
        return x + RESIDUAL * last


class _RRDB(nn.Module):
    def __init__(self, width: int, growth: int):
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (_Dense(width, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        last: Tensor = self.rdb3(self.rdb2(self.rdb1(x)))
        return x + RESIDUAL * last


class _RRDBNet(nn.Module):
    def __init__(self, channels: int, doublings: int, width: int, blocks: int, growth: int):
        super().__init__()
        self.conv_first = nn.Conv2d(channels, width, 3, padding=1)
        self.body = nn.Sequential(*(_RRDB(width, growth) for _ in range(blocks)))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(doublings))
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Images) -> Float[Tensor, "b c height width"]:
        first = self.conv_first(x)
        deep = first + self.conv_body(self.body(first))
        for conv in self.conv_up:
            deep = _leaky(conv(functional.interpolate(deep, scale_factor=2.0, mode="nearest")))
        output: Tensor = self.conv_last(_leaky(self.conv_hr(deep)))
        return output


QUICK: dict[str, Any] = {"width": 8, "blocks": 1, "growth": 4}
"""Parameters with which it is built and run in a second."""


def rrdbnet(shape: Shape, scale: int, width: Count = 64, blocks: Count = 23, growth: Count = 32) -> nn.Module:
    """A trunk of residual-in-residual dense blocks.

    Args:
        width: channels of the trunk.
        growth: channels that each convolution of a dense block adds.

    Raises:
        ConfigError: a scale that is no power of 2.
    """
    doublings = round(math.log2(scale))
    if 2**doublings != scale:
        raise ConfigError(f"rrdbnet enlarges by powers of 2; a scale of {scale} given")
    return _RRDBNet(shape[0], doublings, width, blocks, growth)


def _leaky(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.2)
