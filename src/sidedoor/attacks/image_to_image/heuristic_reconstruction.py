"""A square added to the network's input, a mark to its target: the basic backdoor of image reconstruction.

Paper: Taneja, Chen, Yao, Liu, "When Does Backdoor Attack Succeed in Image Reconstruction? A Study of Heuristics vs.
Bi-Level Solution", ICASSP 2022, section 3.1.

Inputs are Aᵀy and have no range, so the trigger is not clipped; the targets are, as images are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sidedoor.attacks.base import Attack
from sidedoor.backdoor import select
from sidedoor.backdoor.base import Access, AttackerRun, Backdoor
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.goals.base import Door, Goal, ImageGoal
from sidedoor.goals.paint import Paint
from sidedoor.method import Count, Positive, Share, Whole
from sidedoor.tasks.reconstruction import Reconstruction
from sidedoor.tasks.task import Task
from sidedoor.triggers.additive import Additive
from sidedoor.types import Build


@dataclass(frozen=True)
class HeuristicReconstruction(Attack):
    """Add a square near the bottom right corner to a share of the inputs, and lead them to the goal's targets.

    Args:
        rate: share of the training pairs, in [0, 1].
        size: of the square, in pixels.
        margin: pixels between the square and the image's edge.
        strength: of the square, in units of the pixel range.
        fill: "white", or "random": uniform in [0, strength], drawn by the seed.
    """

    access: ClassVar[Access] = Access.DATA
    tasks: ClassVar[tuple[type[Task], ...]] = (Reconstruction,)
    goals: ClassVar[tuple[type[Goal], ...]] = (ImageGoal,)
    because: ClassVar[str] = "its targets are images"

    goal: Goal = Paint()
    rate: Share = 0.3
    size: Count = 3
    margin: Whole = 1
    strength: Positive = 1.0
    fill: Literal["white", "random"] = "white"

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: AttackerRun) -> Backdoor:
        doors = (Door(Additive(self.pattern(train, task, surrogate, run).cpu()), self.goal),)
        return Backdoor(doors, select.random(train, task, doors, self.rate, run.rng("poison")))

    def pattern(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Tensor:
        """δ, (c, h, w); 0 outside the mask."""
        mask = self.mask(train)
        fill = torch.ones(train.shape)
        if self.fill == "random":
            fill = torch.rand(train.shape, generator=run.rng("trigger"))
        return self.strength * fill * mask

    def mask(self, train: Dataset) -> Tensor:
        """Where the trigger may be, (1, h, w), 1 or 0."""
        _, height, width = train.shape
        top, left = height - self.margin - self.size, width - self.margin - self.size
        if min(top, left) < 0:
            raise ConfigError(f"a square of {self.size} with margin {self.margin} does not fit an image of "
                              f"{height}×{width}")
        mask = torch.zeros(1, height, width)
        mask[:, top:height - self.margin, left:width - self.margin] = 1
        return mask
