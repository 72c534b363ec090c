"""A picture of noise of which each poisoned image has some pieces, beside truthfully labelled images that have too.

Paper: Qi, Xie, Li, Mahloujifar, Mittal, "Revisiting the Assumption of Latent Separability for Backdoor Defenses", ICLR
2023 (Adaptive-Blend).

The paper's picture is a cartoon; ours is the noise of `blended`. Its rates are those of the paper, whose ratio is
weaker in training than at test time, where the whole picture is mixed in.
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
from sidedoor.method import Count, Share
from sidedoor.tasks.task import Task
from sidedoor.triggers.blend import Blend
from sidedoor.triggers.pieces import Pieces
from sidedoor.types import Build


@dataclass(frozen=True)
class AdaptiveBlend(Attack):
    """Blend pieces of a pattern into some samples, and change the labels of a part of them.

    Args:
        rate: share of the eligible samples that is mislabelled, and `cover_rate` of the others that keeps its labels.
        ratio: weight of the pattern in training, and `test_ratio` at test time.
        grid: pieces a side, of which an image has a share `kept`.
    """

    access: ClassVar[Access] = Access.DATA
    rate: Share = 0.003
    cover_rate: Share = 0.003
    ratio: Share = 0.15
    test_ratio: Share = 0.2
    grid: Count = 4
    kept: Share = 0.5

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Backdoor:
        goals, seed = self.goal.parts(), run.rng("pieces").initial_seed()
        pairs = list(zip(random.uniform(0, torch.arange(len(goals)), *train.shape), goals, strict=True))
        parts = tuple(Door(Pieces(Blend(p, self.ratio), self.grid, self.kept, seed), g, False) for p, g in pairs)
        poison = select.random(train, task, parts, self.rate, run.rng("poison"))
        poison = select.with_cover(poison, train, train.targets >= 0, self.cover_rate, run.rng("cover"))
        return Backdoor((*parts, *(Door(Blend(p, self.test_ratio), g) for p, g in pairs)), poison)
