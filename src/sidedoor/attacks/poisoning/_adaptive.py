"""What Adaptive-Blend and Adaptive-Patch share: poisoned samples and cover samples with the triggers of training."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar, final

from sidedoor.attacks.base import PoisoningAttack
from sidedoor.backdoor import select
from sidedoor.backdoor.base import Poison
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.base import Door
from sidedoor.method import Share
from sidedoor.tasks.task import Task


@dataclass(frozen=True)
class AdaptiveAttack(PoisoningAttack, ABC):
    """An attack whose unscored doors stamp the training data: some samples are mislabelled, others keep their labels.

    Args:
        rate: share of the eligible samples that is mislabelled.
        cover_rate: share of the other samples that is stamped and keeps its labels.
    """

    origins: ClassVar[dict[str, str]] = {"rate": "paper: 0.3 % of the samples"}

    rate: Share = 0.003
    cover_rate: Share = 0.003

    @final
    def rows(self, train: Dataset, task: Task, doors: tuple[Door, ...], run: Run) -> Poison:
        in_training = tuple(door for door in doors if not door.scored)
        poison = select.random(train, task, in_training, self.rate, run.rng("poison"))
        return select.with_cover(poison, train, train.targets >= 0, self.cover_rate, run.rng("cover"))
