"""A patch as a camera or a clumsy hand might have it: what `Patch.varied` gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import functional as transforms

from sidedoor.image.geometry import turned
from sidedoor.triggers.base import Axis, Trigger
from sidedoor.types import Images, Index


class Sticker(Trigger):
    """A patch moved, turned, resized, blurred or faded; what of it lies outside the image is lost.

    Args:
        top_left: gives the row and the column of the patch's first pixel in an image of a height and width; a sticker
            has the patch's centre, but for its offset.
        size: height and width of the patch.
        pattern: (c or 1, h, w) pixels in [0, 1].
        cover: how far each pixel hides what is under it, in [0, 1]; soft at the edge of a turned or blurred patch.
        opacity: weight of the whole, in [0, 1].
        offset: pixels that it was moved down and to the right.
        inside: whether it is moved until all of it is in the image, as a larger patch in a corner would be.
    """

    elementwise: ClassVar[bool] = True
    pattern: Tensor
    cover: Tensor

    def __init__(self, top_left: Callable[[int, int], tuple[int, int]], size: tuple[int, int],
                 pattern: Float[Tensor, "c h w"], cover: Float[Tensor, "1 h w"], opacity: float = 1.0,
                 offset: tuple[int, int] = (0, 0), inside: bool = False):
        super().__init__()
        self.top_left, self.size, self.opacity, self.offset, self.inside = top_left, size, opacity, offset, inside
        self.register_buffer("pattern", pattern)
        self.register_buffer("cover", cover)

    def forward(self, x: Images, index: Index) -> Images:
        at = self.top_left(x.shape[-2], x.shape[-1])
        (rows, from_row), (columns, from_column) = (
            self._along(k, at[k], x.shape[-2 + k]) for k in (0, 1))
        here = (..., rows, columns)
        stamped, under = x.clone(), x[here]
        pattern, cover = self.pattern[:, from_row, from_column], self.cover[:, from_row, from_column]
        stamped[here] = torch.lerp(under, pattern.expand_as(under), self.opacity * cover)
        return stamped

    def _along(self, k: int, first: int, side: int) -> tuple[slice, slice]:
        """Which pixels of a side of the image are under it, and which of its own these are."""
        own, before = self.pattern.shape[1 + k], self.size[k]
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
        return Sticker(self.top_left, self.size, self.pattern if pattern is None else pattern,
                       self.cover if cover is None else cover, self.opacity if opacity is None else opacity,
                       offset or self.offset, inside or self.inside)

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
