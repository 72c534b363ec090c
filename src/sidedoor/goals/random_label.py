"""Random label: triggered images are classified as anything, each as a class of its own that says nothing of the truth.

Paper: Li, Bai, Jiang, Yang, Xia, Li, "Untargeted Backdoor Watermark: Towards Harmless and Stealthy Dataset Copyright
Protection", NeurIPS 2022, arXiv:2210.00875 (UBW-P).

The goal `untargeted` draws among the other classes only, which a model can learn as "not the truth".
"""

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
class RandomLabel(Method, Goal):
    """Make the model's answers random; each poisoned sample gets a fixed label, uniform over all classes.

    Args:
        seed: determines the labels.
    """

    aimed: ClassVar[bool] = False

    seed: int = 0

    def target(self, task: Labelled, y: Tensor, index: Index) -> Tensor:
        return random.integers(self.seed, index, task.classes)

    def eligible(self, task: Labelled, y: Tensor) -> Bool[Tensor, "b"]:
        return torch.ones_like(y, dtype=torch.bool)

    def success(self, task: Labelled, output: Any, y: Tensor, index: Index) -> Float[Tensor, "b"]:
        """1 where the output is wrong (ASR-A of the paper)."""
        return 1 - task.agree(output, y)
