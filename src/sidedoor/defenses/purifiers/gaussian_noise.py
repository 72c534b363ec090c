"""Gaussian noise: a purifier that drowns faint triggers in noise.

Paper: Zhang, Chen, Huang, Liao, Zhang, Feng, Hua, Yu, "Poison Ink: Robust and Invisible Backdoor Attack", IEEE TIP
2022, arXiv:2108.02488, Table XII; its released code adds less noise, of 10 levels' deviation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sidedoor.core import random
from sidedoor.data.base import Dataset
from sidedoor.defenses.purifiers.base import Purifier, in_place
from sidedoor.engine import Run
from sidedoor.method import NonNegative
from sidedoor.tasks.task import Task
from sidedoor.types import Purify


@dataclass(frozen=True)
class GaussianNoise(Purifier):
    """Add noise to inputs and clip them to their range.

    The noise depends on the run's seed and the sample's index only.

    Args:
        variance: in units of [0, 1]².
    """

    origins: ClassVar[dict[str, str]] = {"variance": "paper: Table XII"}
    tasks: ClassVar[tuple[type[Task], ...]] = (Task,)

    variance: NonNegative = 0.01

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Purify:
        seed, (low, high, _) = run.rng("noise").initial_seed(), clean.space
        deviation = self.variance**0.5
        return in_place(lambda x, index: (x + deviation * random.normal(seed, index, *x.shape[1:])).clamp(low, high))
