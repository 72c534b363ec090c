"""SPM: a lattice of slightly brighter pixels, the static perturbation mask, on dirty-label samples.

Paper: Zhong, Liao, Squicciarini, Zhu, Miller, "Backdoor Embedding in Convolutional Neural Network Models via Invisible
Perturbation", CODASPY 2020, arXiv:1808.10307.

The lattice is that of the comparisons in Zhang et al., "Poison Ink", IEEE TIP 2022, arXiv:2108.02488: every other pixel
of every other row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sidedoor.attacks.base import PoisoningAttack
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.base import Door
from sidedoor.method import Positive
from sidedoor.tasks.task import Task
from sidedoor.triggers.additive import Additive
from sidedoor.types import Build


@dataclass(frozen=True)
class SPM(PoisoningAttack):
    """Add a lattice to a share of the eligible samples and change their labels.

    Args:
        rate: share of the eligible training samples, in [0, 1].
        levels: how much brighter its pixels are, in 8-bit levels.
    """

    tags: ClassVar[frozenset[str]] = frozenset({"invisible"})
    origins: ClassVar[dict[str, str]] = {
        "rate": "ours: 10 %, as in the comparisons of arXiv:2108.02488",
        "levels": "ours: 6, as in the comparisons of arXiv:2108.02488",
    }

    levels: Positive = 6.0

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> tuple[Door, ...]:
        return tuple(Door(Additive(self._lattice(train.shape, k)), goal) for k, goal in enumerate(self.goal.parts()))

    def _lattice(self, shape: tuple[int, int, int], k: int) -> Float[Tensor, "c h w"]:
        """Of the k-th target: the four places of a lattice in turn, then brighter ones, so that triggers differ."""
        pattern = torch.zeros(shape)
        pattern[:, k // 2 % 2 :: 2, k % 2 :: 2] = self.levels * (1 + k // 4) / 255
        return pattern
