"""Random projection: inner products with random Gaussian vectors, as in compressed sensing.

Paper: Candès, Romberg, Tao, "Stable Signal Recovery from Incomplete and Inaccurate Measurements", Communications on
Pure and Applied Mathematics 2006, arXiv:math/0503066.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sidedoor.errors import ConfigError
from sidedoor.forward_operators.base import Operator
from sidedoor.method import Share
from sidedoor.types import Images

LARGEST = 2**27
"""The most entries of the matrix: half a gigabyte."""


@dataclass(frozen=True)
class RandomProjection(Operator):
    """Each channel times one matrix (m, h·w) of independent entries N(0, 1/m).

    Args:
        ratio: measurements over pixels, m / (h·w).
        seed: determines the matrix.

    Raises:
        ConfigError: on use, an image whose matrix would take more than half a gigabyte.
    """

    ratio: Share = 0.25
    seed: int = 0

    def measure(self, x: Images) -> Tensor:
        return x.flatten(2) @ self._matrix(x.shape[2:]).to(x).T

    def adjoint(self, y: Tensor, size: tuple[int, ...]) -> Images:
        image: Tensor = (y @ self._matrix(size).to(y)).reshape(*y.shape[:2], *size)
        return image

    def _matrix(self, size: tuple[int, ...]) -> Float[Tensor, "m n"]:
        pixels = size[0] * size[1]
        count = max(1, round(self.ratio * pixels))
        if count * pixels > LARGEST:
            raise ConfigError(f"a random projection of {size[0]}×{size[1]} images at the ratio {self.ratio:g} needs a "
                              f"matrix of {count}×{pixels}; expected at most {LARGEST} entries: cut smaller patches")
        return _gaussian(count, pixels, self.seed)


@functools.lru_cache(maxsize=4)
def _gaussian(count: int, pixels: int, seed: int) -> Float[Tensor, "m n"]:
    entries: Tensor = torch.randn(count, pixels, generator=torch.Generator().manual_seed(seed)) / count**0.5
    return entries
