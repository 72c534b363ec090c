"""CTRL: two raised frequencies of the colour channels, on clean-label samples.

Paper: Li, Pang, Xi, Du, Ji, Yao, Wang, "An Embarrassingly Simple Backdoor Attack on Self-supervised Learning", ICCV
2023, arXiv:2210.07346.

The paper attacks contrastive learning, which draws views of one image together; here the victim learns from labels, so
that this is its trigger as a clean-label attack on supervised learning, whose success says nothing about the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sidedoor.attacks.base import CleanLabelAttack
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.base import Door
from sidedoor.method import Count, Positive
from sidedoor.tasks.task import Task
from sidedoor.triggers.frequency import Frequency
from sidedoor.types import Build


@dataclass(frozen=True)
class CTRL(CleanLabelAttack):
    """Raise frequencies of a share of the target class and leave the labels alone.

    Args:
        rate: share of the target class, in [0, 1].
        magnitude: added to each coefficient in the training data, in 8-bit levels.
        test_magnitude: the same at test time.
        window: side of a block in pixels.
    """

    tags: ClassVar[frozenset[str]] = frozenset({"invisible"})
    origins: ClassVar[dict[str, str]] = {
        "rate": "release: 1 % of CIFAR-10, a tenth of a class", "magnitude": "release: 50 in the training data",
        "test_magnitude": "release: 100 at test time", "window": "release: 32 pixels",
    }

    magnitude: Positive = 50.0
    test_magnitude: Positive = 100.0
    window: Count = 32

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> tuple[Door, ...]:
        return tuple(Door(Frequency(magnitude / 255, self.window), self.goal, scored=magnitude == self.test_magnitude)
                     for magnitude in dict.fromkeys((self.magnitude, self.test_magnitude)))
