"""Multi-target: several triggers, each with a target class of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from sidedoor.errors import ConfigError
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Goal
from sidedoor.method import Label, Method
from sidedoor.types import Index, Labelled


@dataclass(frozen=True)
class MultiTarget(Method, Goal):
    """Lead the samples stamped by trigger k to class `target_classes[k]`: one door per target.

    Args:
        target_classes: at least two labels, each once.
    """

    several: ClassVar[bool] = True

    target_classes: tuple[Label, ...] = (0, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.target_classes)) != len(self.target_classes) or len(self.target_classes) < 2:
            raise ConfigError(f"target_classes = {list(self.target_classes)} given; expected two or more, each once")

    def parts(self) -> tuple[Goal, ...]:
        return tuple(AllToOne(label) for label in self.target_classes)

    def target(self, task: Labelled, y: Tensor, index: Index) -> Tensor:
        raise ConfigError("a goal of several targets has no single target; use its parts()")

    def eligible(self, task: Labelled, y: Tensor) -> Bool[Tensor, "b"]:
        return torch.stack([part.eligible(task, y) for part in self.parts()]).any(0)
