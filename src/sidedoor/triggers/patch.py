"""Patch trigger: a small rectangle at a fixed place (BadNets, Gu et al. 2017, arXiv:1708.06733)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sidedoor.errors import ConfigError
from sidedoor.triggers._sticker import Sticker
from sidedoor.triggers.base import Axis, Trigger
from sidedoor.types import Images, Index


class Patch(Trigger):
    """Overwrite a rectangle of the image.

    Args:
        pattern: (c or 1, h, w) pixels in [0, 1].
        corner: where it touches the image: "top left", "top right", "bottom left" or "bottom right".
        margin: pixels between the patch and the image's edge.
        opacity: weight of the pattern, in [0, 1]; below 1 the image shines through.
        place: pixels above and left of the patch, instead of a corner and a margin.

    Raises:
        ConfigError: an unknown corner, or an image smaller than the patch and its margin or place.
    """

    elementwise: ClassVar[bool] = True
    pattern: Tensor

    def __init__(self, pattern: Float[Tensor, "c h w"], corner: str = "bottom right", margin: int = 0,
                 opacity: float = 1.0, place: tuple[int, int] | None = None):
        super().__init__()
        if corner not in CORNERS:
            raise ConfigError(f"corner = {corner!r} given; expected one of {', '.join(CORNERS)}")
        self.register_buffer("pattern", pattern)
        self.corner, self.margin, self.opacity, self.place = corner, margin, opacity, place

    def forward(self, x: Images, index: Index) -> Images:
        h, w = self.pattern.shape[-2:]
        top, left = self.top_left(x.shape[-2], x.shape[-1])
        stamped = x.clone()
        under = x[..., top : top + h, left : left + w]
        stamped[..., top : top + h, left : left + w] = torch.lerp(under, self.pattern.expand_as(under), self.opacity)
        return stamped

    def top_left(self, height: int, width: int) -> tuple[int, int]:
        """The row and the column of its first pixel in an image of that size."""
        h, w = self.pattern.shape[-2:]
        down, right = self.place or (self.margin, self.margin)
        if h + down > height or w + right > width:
            where = f"margin {self.margin}" if self.place is None else f"{down} pixels above and {right} left of it"
            raise ConfigError(f"a patch of {h}×{w} with {where} does not fit an image of {height}×{width}")
        return (down if self.place or self.corner.startswith("top") else height - h - down,
                right if self.place or self.corner.endswith("left") else width - w - right)

    def varied(self, axis: Axis, amount: float) -> Trigger | None:
        size = (self.pattern.shape[1], self.pattern.shape[2])
        whole = torch.ones_like(self.pattern[:1])
        return Sticker(self.top_left, size, self.pattern, whole, self.opacity).varied(axis, amount)


CORNERS = ("bottom right", "bottom left", "top left", "top right")


def checkerboard(size: int) -> Float[Tensor, "1 s s"]:
    """The pattern of BadNets' released triggers: alternating black and white, white in the corners of odd sizes."""
    cell = torch.arange(size)
    return ((cell[:, None] + cell) % 2 == 0).float()[None]
