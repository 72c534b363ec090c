"""Cutout: a purifier that blacks out a random square of each input.

Paper: DeVries, Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017, arXiv:1708.04552;
at test time Zhang et al., "Poison Ink", IEEE TIP 2022, arXiv:2108.02488, Table XII.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sidedoor.data.base import Dataset
from sidedoor.defenses.purifiers.base import Purifier, in_place
from sidedoor.defenses.purifiers.cutmix import squares
from sidedoor.engine import Run
from sidedoor.method import Share
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Index, Purify


@dataclass(frozen=True)
class Cutout(Purifier):
    """Set a square to zero, at a place that depends on the run's seed and the sample's index only.

    Args:
        share: the square's side, as a share of the image's shorter one.
    """

    origins: ClassVar[dict[str, str]] = {"share": "paper: 16 of 32 pixels on CIFAR-10 (DeVries and Taylor)"}

    share: Share = 0.5

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Purify:
        seed = run.rng("positions").initial_seed()

        def purify(x: Images, index: Index) -> Images:
            return x * (1 - squares(x, index, self.share, seed))

        return in_place(purify)
