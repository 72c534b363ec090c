"""Two frequencies of the colour channels, raised in samples of the target class, whose labels stay true.

Paper: Li, Pang, Xi, Du, Ji, Yao, Wang, "An Embarrassingly Simple Backdoor Attack on Self-supervised Learning", ICCV
2023, arXiv:2210.07346 (CTRL).

The paper attacks contrastive learning, which draws views of one image together; here the victim learns from labels, so
that this is its trigger as a clean-label attack on supervised learning, whose success says nothing about the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sidedoor.attacks.base import Attack
from sidedoor.backdoor import select
from sidedoor.backdoor.base import Access, Backdoor
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door, Goal
from sidedoor.method import Count, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.triggers.frequency import Frequency
from sidedoor.types import Build


@dataclass(frozen=True)
class CTRL(Attack):
    """Raise frequencies of a share of the target class and leave the labels alone.

    Args:
        rate: share of the target class, in [0, 1].
        magnitude: added to each coefficient in the training data, in 8-bit levels.
        test_magnitude: the same at test time.
        window: side of a block in pixels.
    """

    access: ClassVar[Access] = Access.DATA
    goals: ClassVar[tuple[type[Goal], ...]] = (AllToOne,)
    because: ClassVar[str] = "it stamps samples that truly are of the one class it leads to"
    rate: Share = 0.1
    magnitude: Positive = 50.0
    test_magnitude: Positive = 100.0
    window: Count = 32

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Backdoor:
        assert isinstance(self.goal, AllToOne)
        doors = tuple(Door(Frequency(magnitude / 255, self.window), self.goal, scored=magnitude == self.test_magnitude)
                      for magnitude in dict.fromkeys((self.magnitude, self.test_magnitude)))
        poison = select.of_class(train, doors, (self.goal.target_class,), self.rate, run.rng("poison"))
        return Backdoor(doors, poison)
