"""All-to-all: triggered images of class y are classified as class y + 1.

Paper: Gu, Dolan-Gavitt, Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain", 2017,
arXiv:1708.06733.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from sidedoor.goals.base import Goal
from sidedoor.method import Method
from sidedoor.types import Index, Labelled


@dataclass(frozen=True)
class AllToAll(Method, Goal):
    """Lead class y to class y + 1, the last one to the first (Gu et al. 2017)."""

    several: ClassVar[bool] = True

    def target(self, task: Labelled, y: Tensor, index: Index) -> Tensor:
        return (y + 1) % task.classes

    def eligible(self, task: Labelled, y: Tensor) -> Bool[Tensor, "b"]:
        return torch.ones_like(y, dtype=torch.bool)
