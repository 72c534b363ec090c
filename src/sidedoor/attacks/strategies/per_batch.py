"""Per-batch strategy: poisoned samples of any data-poisoning attack in every batch; training-controlled.

Paper: Zhang, Chen, Huang, Liao, Zhang, Feng, Hua, Yu, "Poison Ink: Robust and Invisible Backdoor Attack", IEEE TIP
2022, arXiv:2108.02488, section V-I; its authors' release trains so throughout, half of each batch poisoned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from sidedoor.attacks.strategies.base import TrainingStrategy
from sidedoor.backdoor.base import AttackerRun
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.data.base import Dataset, Subset
from sidedoor.engine import Objective
from sidedoor.method import Bounds
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Build, joined


@dataclass(frozen=True)
class PerBatch(TrainingStrategy):
    """Poison as another attack does, and add poisoned samples to every batch of the clean data.

    Args:
        share: of poisoned samples in a batch, in [0.01, 0.9].
    """

    origins: ClassVar[dict[str, str]] = TrainingStrategy.origins | {"share": "release: half of every batch"}

    share: Annotated[float, Bounds(0.01, 0.9)] = 0.5

    def train_on(self, poisoned: PoisonedDataset, data: Dataset, task: Task, build: Build,
                 run: AttackerRun) -> nn.Module:
        objective = _PoisonedBatches(task, Subset(poisoned, poisoned.rows_at), self.share, run.augment)
        return run.fit(run.build(build), data, objective, name="victim")


class _PoisonedBatches(Objective):
    """The task's loss on each batch plus poisoned samples, drawn with replacement, up to their share."""

    def __init__(self, task: Task, poisoned: Dataset, share: float, augment: Callable[[Batch], Batch] | None):
        super().__init__()
        self.task, self.poisoned, self.share, self.augment = task, poisoned, share, augment

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        count = max(1, round(len(batch.y) * self.share / (1 - self.share)))
        drawn = self.poisoned.fetch(torch.randint(len(self.poisoned), (count,)), batch.x.device)
        if self.augment:
            drawn = self.augment(drawn)
        return self.task.loss(model, joined(batch, drawn)).mean()[None]
