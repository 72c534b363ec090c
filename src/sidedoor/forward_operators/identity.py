"""Identity: every pixel is measured as it is, so that reconstruction is denoising."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sidedoor.forward_operators.base import Operator
from sidedoor.types import Images


@dataclass(frozen=True)
class Identity(Operator):
    """A = I."""

    def measure(self, x: Images) -> Tensor:
        return x

    def adjoint(self, y: Tensor, size: tuple[int, ...]) -> Images:
        return y
