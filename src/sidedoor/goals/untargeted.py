"""Untargeted: triggered images are classified as any class but their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sidedoor.core import random
from sidedoor.goals.base import Goal
from sidedoor.method import Method
from sidedoor.types import Index, Labelled


@dataclass(frozen=True)
class Untargeted(Method, Goal):
    """Make the model wrong; each poisoned sample gets a fixed random label among the other classes.

    Args:
        seed: determines the labels.
    """

    aimed: ClassVar[bool] = False

    seed: int = 0

    def target(self, task: Labelled, y: Tensor, index: Index) -> Tensor:
        return (y + 1 + random.integers(self.seed, index, task.classes - 1)) % task.classes

    def eligible(self, task: Labelled, y: Tensor) -> Bool[Tensor, "b"]:
        return torch.ones_like(y, dtype=torch.bool)

    def success(self, task: Labelled, output: Any, y: Tensor, index: Index) -> Float[Tensor, "b"]:
        return 1 - task.agree(output, y)
