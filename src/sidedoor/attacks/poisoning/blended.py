"""A picture of noise mixed weakly into whole images, on mislabelled samples.

Paper: Chen, Liu, Li, Lu, Song, "Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning", 2017,
arXiv:1712.05526.

The pattern is the paper's random one, drawn from a seed; its cartoon would need a file. The ratio is the same in
training and at test time. The paper counts poisoned samples; here they are a share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sidedoor.attacks.base import Attack
from sidedoor.backdoor import select
from sidedoor.backdoor.base import Access, Backdoor
from sidedoor.core import random
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.base import Door
from sidedoor.method import Share
from sidedoor.tasks.task import Task
from sidedoor.triggers.blend import Blend
from sidedoor.types import Build


@dataclass(frozen=True)
class Blended(Attack):
    """Blend a random pattern into a share of the eligible samples and change their labels.

    Args:
        rate: share of the eligible training samples, in [0, 1].
        ratio: α, the weight of the pattern, in [0, 1].
        seed: of the pattern; several targets have a pattern each.
    """

    access: ClassVar[Access] = Access.DATA
    rate: Share = 0.1
    ratio: Share = 0.2
    seed: int = 0

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Backdoor:
        goals = self.goal.parts()
        patterns = random.uniform(self.seed, torch.arange(len(goals)), *train.shape)
        doors = tuple(Door(Blend(p, self.ratio), goal) for p, goal in zip(patterns, goals, strict=True))
        return Backdoor(doors, select.random(train, task, doors, self.rate, run.rng("poison")))
