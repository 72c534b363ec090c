"""Patch trigger: a small rectangle at a fixed place (BadNets, Gu et al. 2017, arXiv:1708.06733)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import functional as transforms

from sidedoor.errors import ConfigError
from sidedoor.image.geometry import turned
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
        top, left = self.at(x.shape[-2], x.shape[-1])
        stamped = x.clone()
        under = x[..., top : top + h, left : left + w]
        stamped[..., top : top + h, left : left + w] = torch.lerp(under, self.pattern.expand_as(under), self.opacity)
        return stamped

    def at(self, height: int, width: int) -> tuple[int, int]:
        """The row and the column of its top left pixel in an image of that size."""
        h, w = self.pattern.shape[-2:]
        down, right = self.place or (self.margin, self.margin)
        if h + down > height or w + right > width:
            where = f"margin {self.margin}" if self.place is None else f"{down} pixels above and {right} left of it"
            raise ConfigError(f"a patch of {h}×{w} with {where} does not fit an image of {height}×{width}")
        return (down if self.place or self.corner.startswith("top") else height - h - down,
                right if self.place or self.corner.endswith("left") else width - w - right)

    def varied(self, axis: Axis, amount: float) -> Trigger | None:
        return Sticker(self, self.pattern, torch.ones_like(self.pattern[:1]), self.opacity).varied(axis, amount)


class Sticker(Trigger):
    """A patch moved, turned, resized, blurred or faded; what of it lies outside the image is lost.

    Args:
        patch: where it was; a sticker has the same centre, but for its offset.
        pattern: (c or 1, h, w) pixels in [0, 1].
        cover: how far each pixel hides what is under it, in [0, 1]; soft at the edge of a turned or blurred patch.
        opacity: weight of the whole, in [0, 1].
        offset: pixels that it was moved down and to the right.
        inside: whether it is moved until all of it is in the image, as a larger patch in a corner would be.
    """

    elementwise: ClassVar[bool] = True
    pattern: Tensor
    cover: Tensor

    def __init__(self, patch: Patch, pattern: Float[Tensor, "c h w"], cover: Float[Tensor, "1 h w"],
                 opacity: float = 1.0, offset: tuple[int, int] = (0, 0), inside: bool = False):
        super().__init__()
        self.patch, self.opacity, self.offset, self.inside = patch, opacity, offset, inside
        self.register_buffer("pattern", pattern)
        self.register_buffer("cover", cover)

    def forward(self, x: Images, index: Index) -> Images:
        at = self.patch.at(x.shape[-2], x.shape[-1])
        (rows, from_row), (columns, from_column) = (
            self._along(k, at[k], x.shape[-2 + k]) for k in (0, 1))
        here = (..., rows, columns)
        stamped, under = x.clone(), x[here]
        pattern, cover = self.pattern[:, from_row, from_column], self.cover[:, from_row, from_column]
        stamped[here] = torch.lerp(under, pattern.expand_as(under), self.opacity * cover)
        return stamped

    def _along(self, k: int, first: int, side: int) -> tuple[slice, slice]:
        """Which pixels of a side of the image are under it, and which of its own these are."""
        own, before = self.pattern.shape[1 + k], self.patch.pattern.shape[1 + k]
        start = first + before // 2 - own // 2
        start = min(max(start, 0), max(0, side - own)) if self.inside else start
        start += self.offset[k]
        low, high = min(max(start, 0), side), min(max(start + own, 0), side)
        return slice(low, high), slice(low - start, high - start)

    def varied(self, axis: Axis, amount: float) -> Trigger | None:
        down, right = self.offset
        if axis == "right":
            return self._with(offset=(down, right + round(amount)))
        if axis == "down":
            return self._with(offset=(down + round(amount), right))
        if axis == "opacity":
            return self._with(opacity=amount)
        if axis == "value":
            lit = self.pattern > (self.pattern.max() + self.pattern.min()) / 2
            all_of_it = self.pattern.max() == self.pattern.min()
            return self._with(pattern=torch.where(lit | all_of_it, amount / 255, self.pattern))
        made = {"size": self._resized, "rotation": self._rotated, "blur": self._blurred}.get(axis)
        return made(amount) if made else None

    def _with(self, pattern: Float[Tensor, "c h w"] | None = None, cover: Float[Tensor, "1 h w"] | None = None,
              opacity: float | None = None, offset: tuple[int, int] | None = None, inside: bool = False) -> Sticker:
        return Sticker(self.patch, self.pattern if pattern is None else pattern, self.cover if cover is None else cover,
                       self.opacity if opacity is None else opacity, offset or self.offset, inside or self.inside)

    def _resized(self, factor: float) -> Sticker:
        size = [max(1, round(factor * side)) for side in self.pattern.shape[1:]]
        return self._drawn(functional.interpolate(self._layers(0), size=size, mode="area"), inside=True)

    def _rotated(self, degrees: float) -> Sticker:
        h, w = self.pattern.shape[1:]
        layers = self._layers(math.ceil((math.hypot(h, w) - min(h, w)) / 2))
        return self._drawn(turned(layers, layers.new_tensor([degrees]))) if degrees % 360 else self

    def _blurred(self, sigma: float) -> Sticker:
        if sigma == 0:
            return self
        reach = math.ceil(3 * sigma)
        return self._drawn(transforms.gaussian_blur(self._layers(reach), [2 * reach + 1] * 2, [sigma, sigma]))

    def _layers(self, margin: int) -> Float[Tensor, "1 layers height width"]:
        """Its colours as far as they hide something, and how far that is, with room around."""
        return functional.pad(torch.cat([self.pattern * self.cover, self.cover])[None], [margin] * 4)

    def _drawn(self, layers: Float[Tensor, "1 layers height width"], inside: bool = False) -> Sticker:
        """A sticker of such layers."""
        colours, cover = layers[0, :-1], layers[0, -1:].clamp(0, 1)
        return self._with(pattern=(colours / cover.clamp(min=1e-6)).clamp(0, 1), cover=cover, inside=inside)


CORNERS = ("bottom right", "bottom left", "top left", "top right")


def checkerboard(size: int) -> Float[Tensor, "1 s s"]:
    """The pattern of BadNets' released triggers: alternating black and white, white in the corners of odd sizes."""
    cell = torch.arange(size)
    return ((cell[:, None] + cell) % 2 == 0).float()[None]
