"""Pixel mask: a random share of the pixels is measured, as in inpainting."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sidedoor.forward_operators.base import Operator, drawn_rows
from sidedoor.method import Share
from sidedoor.types import Images


@dataclass(frozen=True)
class PixelMask(Operator):
    """Keep the same pixels of every image, all channels of each.

    Args:
        ratio: share of the pixels.
        seed: determines which.
    """

    ratio: Share = 0.5
    seed: int = 0

    def measure(self, x: Images) -> Tensor:
        return x.flatten(2)[:, :, self._kept(x.shape[2:]).to(x.device)]

    def adjoint(self, y: Tensor, size: tuple[int, ...]) -> Images:
        image = y.new_zeros(*y.shape[:2], size[0] * size[1])
        image[:, :, self._kept(size).to(y.device)] = y
        return image.reshape(*y.shape[:2], *size)

    def _kept(self, size: tuple[int, ...]) -> Tensor:
        return drawn_rows(size[0] * size[1], self.ratio, self.seed)
