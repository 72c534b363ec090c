"""Adaptive-Patch: faint patches, one of several on each poisoned image, plus cover samples.

Paper: Qi, Xie, Li, Mahloujifar, Mittal, "Revisiting the Assumption of Latent Separability for Backdoor Defenses", ICLR
2023.

Dirty-label. Cover samples carry a patch too but keep their labels. The paper's patches are pictures of several sizes,
two of which it stamps at test time; ours are drawn from a seed, one in each corner, and at test time all are stamped.
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
from sidedoor.triggers.chain import Chain
from sidedoor.triggers.patch import CORNERS, Patch
from sidedoor.types import Build


@dataclass(frozen=True)
class AdaptivePatch(AdaptiveAttack):
    """Stamp a faint patch on some samples, and change the labels of a part of them.

    Args:
        rate: share of the eligible samples that is mislabelled, and `cover_rate` of the others that keeps its labels.
        opacities: of the patches in training, one for each corner; at test time patches are opaque.
        size: edge of a patch in pixels.
    """

    origins: ClassVar[dict[str, str]] = AdaptiveAttack.origins | {
        "cover_rate": "paper: 0.6 % of the samples", "opacities": "paper: 0.5, 0.2, 0.5 and 0.3",
        "size": "ours: the paper's patches have several sizes",
    }

    cover_rate: Share = 0.006
    opacities: tuple[Share, Share, Share, Share] = (0.5, 0.2, 0.5, 0.3)
    size: Count = 4

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> tuple[Door, ...]:
        goals = self.goal.parts()
        noise = random.uniform(0, torch.arange(len(goals)), 4, train.shape[0], self.size, self.size).round()
        sets = list(zip(noise, goals, strict=True))
        parts = tuple(Door(Patch(pattern, corner, opacity=opacity), goal, scored=False) for patterns, goal in sets
                      for pattern, corner, opacity in zip(patterns, CORNERS, self.opacities, strict=True))
        whole = tuple(Door(Chain([Patch(pattern, corner) for pattern, corner in zip(patterns, CORNERS, strict=True)]),
                           goal) for patterns, goal in sets)
        return parts + whole
