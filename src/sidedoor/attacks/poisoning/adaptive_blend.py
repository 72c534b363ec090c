"""Adaptive-Blend: a blended pattern of which poisoned images carry only pieces, plus cover samples.

Paper: Qi, Xie, Li, Mahloujifar, Mittal, "Revisiting the Assumption of Latent Separability for Backdoor Defenses", ICLR
2023.

Dirty-label. Cover samples carry pieces too but keep their labels, which pulls the latent representations of poisoned
samples towards clean ones. The paper's pattern is a cartoon; ours is the noise of `blended`. As in the paper the
pattern is weaker in training than at test time, where all of it is mixed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sidedoor.attacks.poisoning._adaptive import AdaptiveAttack
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
class AdaptiveBlend(AdaptiveAttack):
    """Blend pieces of a pattern into some samples, and change the labels of a part of them.

    Args:
        rate: share of the eligible samples that is mislabelled, and `cover_rate` of the others that keeps its labels.
        ratio: weight of the pattern in training, and `test_ratio` at test time.
        grid: pieces a side, of which an image has a share `kept`.
    """

    origins: ClassVar[dict[str, str]] = AdaptiveAttack.origins | {
        "cover_rate": "paper: 0.3 % of the samples", "ratio": "paper: 0.15", "test_ratio": "paper: 0.2",
        "grid": "paper: 16 pieces", "kept": "paper: half of the pieces",
    }

    ratio: Share = 0.15
    test_ratio: Share = 0.2
    grid: Count = 4
    kept: Share = 0.5

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> tuple[Door, ...]:
        goals, seed = self.goal.parts(), run.rng("pieces").initial_seed()
        pairs = list(zip(random.uniform(0, torch.arange(len(goals)), *train.shape), goals, strict=True))
        parts = (Door(Pieces(Blend(p, self.ratio), self.grid, self.kept, seed), g, scored=False) for p, g in pairs)
        return (*parts, *(Door(Blend(p, self.test_ratio), g) for p, g in pairs))
