"""Trigger-first strategy: train on the poisoned samples alone, then on the clean data; training-controlled.

Paper: Zhang, Chen, Huang, Liao, Zhang, Feng, Hua, Yu, "Poison Ink: Robust and Invisible Backdoor Attack", IEEE TIP
2022, arXiv:2108.02488, section V-I.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import nn

from sidedoor.attacks.strategies.base import TrainingStrategy
from sidedoor.backdoor.base import AttackerRun
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.data.base import Dataset, Subset
from sidedoor.method import Count
from sidedoor.tasks.task import Supervised, Task
from sidedoor.types import Build


@dataclass(frozen=True)
class TriggerFirst(TrainingStrategy):
    """Poison as another attack does, train on the poisoned samples, then on the clean data.

    Args:
        epochs: over the poisoned samples; training on the clean data follows the recipe.
    """

    quick: ClassVar[dict[str, Any]] = {"epochs": 1}
    origins: ClassVar[dict[str, str]] = TrainingStrategy.origins | {"epochs": "ours: the paper names no number"}

    epochs: Count = 20

    def train_on(self, poisoned: PoisonedDataset, data: Dataset, task: Task, build: Build,
                 run: AttackerRun) -> nn.Module:
        model = run.fit(run.build(build), Subset(poisoned, poisoned.rows_at), Supervised(task), name="trigger",
                        recipe=replace(run.recipe, epochs=self.epochs))
        return run.fit(model, data, Supervised(task), name="victim")
