"""Fine-tuning strategy: the victim trains a clean model further on any poisoned data.

Paper: Zhang, Chen, Huang, Liao, Zhang, Feng, Hua, Yu, "Poison Ink: Robust and Invisible Backdoor Attack", IEEE TIP
2022, arXiv:2108.02488, section V-F and Figure 7 (left): 16 epochs at a learning rate of 0.001 are enough.

The attacker touches data only; the clean model is the cell's clean sibling, trained on the same data before poisoning.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import nn

from sidedoor.attacks.strategies.base import TrainingStrategy
from sidedoor.backdoor.base import AttackerRun
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.data.base import Dataset
from sidedoor.method import Count, Positive
from sidedoor.tasks.task import Supervised, Task
from sidedoor.types import Build


@dataclass(frozen=True)
class FineTuned(TrainingStrategy):
    """Poison as another attack does, and train a clean model further on the result.

    Args:
        epochs: of that training, with `lr` for the recipe's optimiser.
    """

    quick: ClassVar[dict[str, Any]] = {"epochs": 1}
    origins: ClassVar[dict[str, str]] = TrainingStrategy.origins | {
        "epochs": "paper: 16, section V-F", "lr": "paper: 0.001, section V-F",
    }

    epochs: Count = 16
    lr: Positive = 1e-3

    def train_on(self, poisoned: PoisonedDataset, data: Dataset, task: Task, build: Build,
                 run: AttackerRun) -> nn.Module:
        model = copy.deepcopy(run.clean_model(build, data, task))
        return run.fit(model, poisoned, Supervised(task), name="victim",
                       recipe=replace(run.recipe, epochs=self.epochs, lr=self.lr))
