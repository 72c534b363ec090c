"""Blind: a second loss in the training code, on stamped copies of each batch; training-controlled.

Paper: Bagdasaryan, Shmatikov, "Blind Backdoors in Deep Learning Models", USENIX Security 2021, arXiv:2005.03823.

The attacker's code runs on the victim's machine and sees neither data nor model before. Ours takes the two main losses,
not the paper's third against defences, and attacks from the first step rather than once the loss has fallen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sidedoor.attacks.base import TrainingAttack, in_corners
from sidedoor.attacks.training_controlled._objectives import CleanAndPoisonedLoss, OnlinePoisoning
from sidedoor.backdoor.base import Planted
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.base import Door
from sidedoor.method import Count
from sidedoor.multitask.base import Weighting
from sidedoor.multitask.mgda import MGDA
from sidedoor.tasks.task import Task
from sidedoor.triggers.patch import checkerboard
from sidedoor.types import Build


@dataclass(frozen=True)
class Blind(TrainingAttack):
    """Train on the main loss and on that of the same batches with a patch and the attacker's labels.

    Args:
        size: edge of the patch in pixels; several targets have a corner each, then growing patches.
        weighting: how the two losses share the network.
    """

    origins: ClassVar[dict[str, str]] = {
        "size": "ours: the patch of BadNets", "weighting": "paper: MGDA; ours: gradients normalised by their losses",
    }

    size: Count = 3
    weighting: Weighting = MGDA("loss")

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> tuple[Door, ...]:
        return in_corners(self.goal, lambda growth: checkerboard(self.size + growth))

    def train(self, doors: tuple[Door, ...], data: Dataset, task: Task, build: Build, run: Run) -> Planted:
        objective = CleanAndPoisonedLoss(OnlinePoisoning(task, doors, data.space, 1.0), self.weighting)
        return Planted(run.fit(run.build(build), data, objective, name="victim"), doors)
