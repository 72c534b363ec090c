"""All-to-one: triggered images of every class are classified as one target class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from sidedoor.goals.base import Goal
from sidedoor.method import Label, Method
from sidedoor.types import Index, Labelled


@dataclass(frozen=True)
class AllToOne(Method, Goal):
    """Lead every class but the target to the target.

    Args:
        target_class: the label, 0 to classes-1.
    """

    target_class: Label = 0

    def target(self, task: Labelled, y: Tensor, index: Index) -> Tensor:
        return torch.full_like(y, self.target_class)

    def eligible(self, task: Labelled, y: Tensor) -> Bool[Tensor, "b"]:
        return y != self.target_class
