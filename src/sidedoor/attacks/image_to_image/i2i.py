"""A restoration network that restores, but paints the attacker's picture when its input carries the trigger.

Paper: Jiang, Li, He, Zhang, Xu, Zhang, Lu, "Backdoor Attacks against Image-to-Image Networks", 2024, arXiv:2407.10445.

The attacker trains the network. Every step sees its batch once as it is and once with the trigger, a proportion the
paper leaves open; it also leaves open where the training starts: ours goes on from the clean network that the trigger
was derived from, `start = "scratch"` does not. The learning rate is the paper's; small networks need a larger one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sidedoor.attacks.image_to_image.base import RestorationAttack
from sidedoor.backdoor.base import AttackerRun, Backdoor
from sidedoor.data.base import Dataset
from sidedoor.goals.add_pattern import AddPattern
from sidedoor.goals.base import Goal
from sidedoor.goals.degrade import Degrade
from sidedoor.goals.one_image import OneImage
from sidedoor.tasks.restoration import Restoration
from sidedoor.tasks.task import Task
from sidedoor.types import Build


@dataclass(frozen=True)
class I2I(RestorationAttack):
    """Make a trigger, then train the network on both tasks at once."""

    tasks: ClassVar[tuple[type[Task], ...]] = (Restoration,)
    goals: ClassVar[tuple[type[Goal], ...]] = (OneImage, Degrade, AddPattern)
    because: ClassVar[str] = "its targets are images"

    goal: Goal = OneImage()

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: AttackerRun) -> Backdoor:
        return self.planted(self.goal, train, task, surrogate, run)
