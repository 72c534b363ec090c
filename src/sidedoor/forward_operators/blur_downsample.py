"""Blur and downsample: a Gaussian blur followed by subsampling, as of a defocused low-resolution camera."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from sidedoor.forward_operators.base import Operator
from sidedoor.method import Count, Positive
from sidedoor.types import Images


@dataclass(frozen=True)
class BlurDownsample(Operator):
    """Convolve with a Gaussian, black outside, and take every `factor`-th row and column.

    Scaled by the factor, so that AᵀA keeps the mean brightness.

    Args:
        sigma: standard deviation of the blur, in pixels; the kernel is cut at three of them.
        factor: one of this many rows and columns is kept.
    """

    sigma: Positive = 1.0
    factor: Count = 2

    def measure(self, x: Images) -> Tensor:
        kernel = self._kernel(x)
        return functional.conv2d(x, kernel, stride=self.factor, padding=kernel.shape[2] // 2, groups=x.shape[1])

    def adjoint(self, y: Tensor, size: tuple[int, ...]) -> Images:
        kernel = self._kernel(y)
        # The transposed convolution does not reach all rows and columns beyond the last one that was kept.
        rest = [(side - 1) % self.factor for side in size]
        return functional.conv_transpose2d(y, kernel, stride=self.factor, padding=kernel.shape[2] // 2,
                                           output_padding=rest, groups=y.shape[1])

    def _kernel(self, like: Tensor) -> Float[Tensor, "c 1 k k"]:
        reach = math.ceil(3 * self.sigma)
        place = torch.arange(-reach, reach + 1, device=like.device, dtype=like.dtype)
        line = (-0.5 * (place / self.sigma) ** 2).exp()
        line = line / line.sum()
        return (self.factor * torch.outer(line, line)).expand(like.shape[1], 1, -1, -1)
