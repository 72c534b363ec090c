"""What every forward operator is: hyper-parameters, a linear map of images, and its adjoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sidedoor.method import Method
from sidedoor.types import Images


@dataclass(frozen=True)
class Operator(Method, ABC):
    """A of y = A x + v: linear and the same for every image. What is random in it comes from a seed."""

    @abstractmethod
    def measure(self, x: Images) -> Tensor:
        """A x, (b, c, ...)."""

    @abstractmethod
    def adjoint(self, y: Tensor, size: tuple[int, ...]) -> Images:
        """Aᵀ y, images of a (height, width): ⟨A x, y⟩ = ⟨x, Aᵀ y⟩."""


def drawn_rows(count: int, ratio: float, seed: int) -> Tensor:
    """A random share of a number of rows, ascending, at least one."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[: max(1, round(ratio * count))].sort().values
