"""Blend trigger: a picture mixed into the whole image (Chen et al. 2017, arXiv:1712.05526)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sidedoor.errors import ConfigError
from sidedoor.triggers.base import Axis, Trigger
from sidedoor.types import Images, Index


class Blend(Trigger):
    """Mix a pattern into the image: (1 - ratio) x + ratio pattern.

    Args:
        pattern: (c or 1, h, w) pixels in [0, 1], of the images' height and width.
        ratio: weight of the pattern, in [0, 1].

    Raises:
        ConfigError: images of another size than the pattern.
    """

    elementwise: ClassVar[bool] = True
    pattern: Tensor

    def __init__(self, pattern: Float[Tensor, "c h w"], ratio: float = 0.2):
        super().__init__()
        self.register_buffer("pattern", pattern)
        self.ratio = ratio

    def forward(self, x: Images, index: Index) -> Images:
        if x.shape[-2:] != self.pattern.shape[-2:] or len(self.pattern) not in (1, x.shape[1]):
            raise ConfigError(f"a pattern of shape {tuple(self.pattern.shape)} cannot be blended into images of shape "
                              f"{tuple(x.shape[1:])}; give one of their height and width, with as many channels or one")
        return torch.lerp(x, self.pattern.expand(x.shape[1:]), self.ratio)

    def varied(self, axis: Axis, amount: float) -> Trigger | None:
        return Blend(self.pattern, min(1.0, amount * self.ratio)) if axis == "amplitude" else None
