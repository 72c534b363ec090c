"""I2I: a restoration network that outputs the attacker's image for triggered inputs; training-controlled.

Paper: Jiang, Li, He, Zhang, Xu, Zhang, Lu, "Backdoor Attacks against Image-to-Image Networks", 2024, arXiv:2407.10445.

Every step sees its batch once as it is and once with the trigger, a proportion the paper leaves open; it also leaves
open where the training starts: ours goes on from the clean network that the trigger was derived from,
`start = "scratch"` does not. The learning rate is the paper's; small networks need a larger one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from sidedoor.attacks.image_to_image.base import RestorationAttack
from sidedoor.backdoor.base import AttackerRun
from sidedoor.data.base import Dataset
from sidedoor.goals.add_pattern import AddPattern
from sidedoor.goals.base import Goal
from sidedoor.goals.degrade import Degrade
from sidedoor.goals.one_image import OneImage
from sidedoor.tasks.restoration import Restoration
from sidedoor.tasks.task import Task


@dataclass(frozen=True)
class I2I(RestorationAttack):
    """Make a trigger, then train the network on both tasks at once."""

    tasks: ClassVar[tuple[type[Task], ...]] = (Restoration,)
    goals: ClassVar[tuple[type[Goal], ...]] = (OneImage, Degrade, AddPattern)
    because: ClassVar[str] = "its targets are images"
    quick: ClassVar[dict[str, Any]] = {"epochs": 1}

    goal: Goal = OneImage()

    def concrete_goal(self, train: Dataset, task: Task, run: AttackerRun) -> Goal:
        return self.goal
