"""Any poisoned training set, whose poisoned samples alone are trained on first and the clean data thereafter.

Paper: Zhang, Chen, Huang, Liao, Zhang, Feng, Hua, Yu, "Poison Ink: Robust and Invisible Backdoor Attack", IEEE TIP
2022, arXiv:2108.02488, section V-I.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from sidedoor.attacks.strategies.base import Trainer
from sidedoor.backdoor.base import AttackerRun
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.data.base import Dataset, Subset
from sidedoor.method import Count
from sidedoor.tasks.task import Supervised, Task
from sidedoor.types import Build


@dataclass(frozen=True)
class TriggerFirst(Trainer):
    """Poison as another attack does, train on the poisoned samples, then on the clean data.

    Args:
        epochs: over the poisoned samples; the clean data are trained on as the recipe says.
    """

    epochs: Count = 20

    def trained(self, poisoned: PoisonedDataset, data: Dataset, task: Task, build: Build,
                run: AttackerRun) -> nn.Module:
        model = run.fit(run.build(build), Subset(poisoned, poisoned.rows_at), Supervised(task), name="trigger",
                        recipe=replace(run.recipe, epochs=self.epochs))
        return run.fit(model, data, Supervised(task), name="victim")
