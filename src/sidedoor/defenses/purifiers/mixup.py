"""Mixup: a purifier that averages each input with another image.

Paper: Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arXiv:1710.09412; at
test time Zhang et al., "Poison Ink", IEEE TIP 2022, arXiv:2108.02488, Table XII, which leaves the weight open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from sidedoor.core import random
from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.defenses.purifiers.base import Purifier, in_place
from sidedoor.engine import Run
from sidedoor.method import Share
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Index, Purify


@dataclass(frozen=True)
class Mixup(Purifier):
    """Mix inputs with the defender's images; which one depends on the run's seed and the sample's index only.

    Args:
        weight: of the other image, in [0, 1].
    """

    origins: ClassVar[dict[str, str]] = {"weight": "ours: open in the paper; both images count alike"}
    needs: ClassVar[Needs] = Needs(clean="images")

    weight: Share = 0.5

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Purify:
        partner = partners(clean, run)
        return in_place(lambda x, index: torch.lerp(x, partner(x, index), self.weight))


def partners(clean: Dataset, run: Run) -> Callable[[Images, Index], Images]:
    """For each input one of the defender's images."""
    seed = run.rng("partners").initial_seed()

    def partner(x: Images, index: Index) -> Images:
        rows = random.integers(seed, index, len(clean))
        found: Images = clean.fetch(rows.cpu(), x.device).x
        return found

    return partner
