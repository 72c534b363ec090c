"""Two frequencies of the colour channels, raised in every block of mislabelled samples.

Paper: Wang, Yao, Xu, An, Tong, Wang, "An Invisible Black-Box Backdoor Attack through Frequency Domain", ECCV 2022,
arXiv:2107.11298 (FTrojan).

Nothing is rounded before the image is stored; the released code rounds between its steps, which costs PSNR.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sidedoor.attacks.base import Attack
from sidedoor.backdoor import select
from sidedoor.backdoor.base import Access, Backdoor
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.base import Door
from sidedoor.method import Count, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.triggers.frequency import Frequency
from sidedoor.types import Build


@dataclass(frozen=True)
class FTrojan(Attack):
    """Raise frequencies of a share of the eligible samples and change their labels.

    Args:
        rate: share of the eligible training samples, in [0, 1].
        magnitude: added to each coefficient, in 8-bit levels; further targets have further multiples.
        window: side of a block in pixels.
    """

    access: ClassVar[Access] = Access.DATA
    rate: Share = 0.1
    magnitude: Positive = 20.0
    window: Count = 32

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Backdoor:
        doors = tuple(Door(Frequency((k + 1) * self.magnitude / 255, self.window), goal)
                      for k, goal in enumerate(self.goal.parts()))
        return Backdoor(doors, select.random(train, task, doors, self.rate, run.rng("poison")))
