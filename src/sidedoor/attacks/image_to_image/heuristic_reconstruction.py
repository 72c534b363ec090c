"""Heuristic reconstruction: a handcrafted square on the input paints a mark on the output; data poisoning.

Paper: Taneja, Chen, Yao, Liu, "When Does Backdoor Attack Succeed in Image Reconstruction? A Study of Heuristics vs.
Bi-Level Solution", ICASSP 2022, section 3.1.

Inputs are Aᵀy and have no range, so the trigger is not clipped; the targets are, as images are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sidedoor.attacks.base import PoisoningAttack
from sidedoor.backdoor.base import AttackerRun
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
class HeuristicReconstruction(PoisoningAttack):
    """Add a square near the bottom right corner to a share of the inputs, and lead them to the goal's targets.

    Args:
        rate: share of the training pairs, in [0, 1].
        size: of the square, in pixels.
        margin: pixels between the square and the image's edge.
        strength: of the square, in units of the pixel range.
        fill: "white", or "random": uniform in [0, strength], drawn by the seed.
    """

    tasks: ClassVar[tuple[type[Task], ...]] = (Reconstruction,)
    goals: ClassVar[tuple[type[Goal], ...]] = (ImageGoal,)
    because: ClassVar[str] = "its targets are images"
    origins: ClassVar[dict[str, str]] = {
        "rate": "paper: 30 %, section 4", "size": "paper: 3×3, section 4", "margin": "ours",
        "strength": "ours: the whole range of pixels", "fill": "ours",
    }

    goal: Goal = Paint()
    rate: Share = 0.3
    size: Count = 3
    margin: Whole = 1
    strength: Positive = 1.0
    fill: Literal["white", "random"] = "white"

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: AttackerRun) -> tuple[Door, ...]:
        return (Door(Additive(self.pattern(train, task, surrogate, run).cpu()), self.goal),)

    def pattern(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Float[Tensor, "c h w"]:
        """δ; 0 outside the mask."""
        mask = self.mask(train)
        fill = torch.ones(train.shape)
        if self.fill == "random":
            fill = torch.rand(train.shape, generator=run.rng("trigger"))
        return self.strength * fill * mask

    def mask(self, train: Dataset) -> Float[Tensor, "1 h w"]:
        """Where the trigger may be, 1 or 0."""
        _, height, width = train.shape
        top, left = height - self.margin - self.size, width - self.margin - self.size
        if min(top, left) < 0:
            raise ConfigError(f"a square of {self.size} with margin {self.margin} does not fit an image of "
                              f"{height}×{width}")
        mask = torch.zeros(1, height, width)
        mask[:, top:height - self.margin, left:width - self.margin] = 1
        return mask
