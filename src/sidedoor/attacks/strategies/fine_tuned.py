"""Any poisoned training set, on which a victim trains a clean network further.

Paper: Zhang, Chen, Huang, Liao, Zhang, Feng, Hua, Yu, "Poison Ink: Robust and Invisible Backdoor Attack", IEEE TIP
2022, arXiv:2108.02488, section V-F and Figure 7 (left): 16 epochs at a learning rate of 0.001 are enough.

The attacker touches data only; the clean network is the cell's sibling, trained on the same data before poisoning.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

from torch import nn

from sidedoor.attacks.strategies.base import Trainer
from sidedoor.backdoor.base import AttackerRun
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.data.base import Dataset
from sidedoor.method import Count, Positive
from sidedoor.tasks.task import Supervised, Task
from sidedoor.types import Build


@dataclass(frozen=True)
class FineTuned(Trainer):
    """Poison as another attack does, and train a clean network on it.

    Args:
        epochs: of that, with `lr` for the recipe's optimiser.
    """

    epochs: Count = 16
    lr: Positive = 1e-3

    def trained(self, poisoned: PoisonedDataset, data: Dataset, task: Task, build: Build,
                run: AttackerRun) -> nn.Module:
        model = copy.deepcopy(run.clean_model(build, data, task))
        return run.fit(model, poisoned, Supervised(task), name="victim",
                       recipe=replace(run.recipe, epochs=self.epochs, lr=self.lr))
