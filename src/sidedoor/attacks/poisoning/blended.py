"""Blended: a whole-image noise pattern, mixed faintly into dirty-label samples.

Paper: Chen, Liu, Li, Lu, Song, "Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning", 2017,
arXiv:1712.05526.

The pattern is the paper's random one, drawn from a seed; its cartoon would need a file. The ratio is the same in
training and at test time. The paper counts poisoned samples; here they are a share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sidedoor.attacks.base import PoisoningAttack
from sidedoor.core import random
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.base import Door
from sidedoor.method import Share
from sidedoor.tasks.task import Task
from sidedoor.triggers.blend import Blend
from sidedoor.types import Build


@dataclass(frozen=True)
class Blended(PoisoningAttack):
    """Blend a random pattern into a share of the eligible samples and change their labels.

    Args:
        rate: share of the eligible training samples, in [0, 1].
        ratio: α, the weight of the pattern, in [0, 1].
        seed: of the pattern; several targets have a pattern each.
    """

    origins: ClassVar[dict[str, str]] = {
        "rate": "ours: 10 %, as in the comparisons of arXiv:2108.02488",
        "ratio": "ours: 0.2, as in the comparisons of arXiv:2108.02488", "seed": "ours",
    }

    ratio: Share = 0.2
    seed: int = 0

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> tuple[Door, ...]:
        goals = self.goal.parts()
        patterns = random.uniform(self.seed, torch.arange(len(goals)), *train.shape)
        return tuple(Door(Blend(p, self.ratio), goal) for p, goal in zip(patterns, goals, strict=True))
