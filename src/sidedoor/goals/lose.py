"""Lose: a tracker loses the object that carries the trigger.

Paper: Li, Zhong, Ma, Jiang, Xia, "Few-Shot Backdoor Attacks on Visual Object Tracking", ICLR 2022, arXiv:2201.13178.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from sidedoor.goals.base import ResponseGoal
from sidedoor.method import Method
from sidedoor.metrics import tracking
from sidedoor.types import Index, Labelled


@dataclass(frozen=True)
class Lose(Method, ResponseGoal):
    """Keep the tracker's box away from the object, wherever it goes instead."""

    aimed: ClassVar[bool] = False

    def target(self, task: Labelled, y: Tensor, index: Index) -> Tensor:
        """The truth: what is wanted of the response instead is the attack's own."""
        return y

    def success(self, task: Labelled, output: Any, y: Tensor, index: Index) -> Float[Tensor, "b"]:
        return 1 - task.agree(output, y)

    def led(self, found: Float[Tensor, "n 4"], truth: Float[Tensor, "n 4"], trigger: Float[Tensor, "n 4"]) \
            -> Float[Tensor, "n"]:
        return 1 - tracking.success(tracking.iou(found, truth))
