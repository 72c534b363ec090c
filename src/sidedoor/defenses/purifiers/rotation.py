"""Rotation: a purifier that turns each input by a small random angle.

Paper: Zhang, Chen, Huang, Liao, Zhang, Feng, Hua, Yu, "Poison Ink: Robust and Invisible Backdoor Attack", IEEE TIP
2022, arXiv:2108.02488, which tests the robustness of attacks by it ("Rot 15", Tables VI and VII).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import nn

from sidedoor.core import random
from sidedoor.data.base import Dataset
from sidedoor.defenses.purifiers.base import Purifier, in_place
from sidedoor.engine import Run
from sidedoor.image.geometry import turned
from sidedoor.method import Bounds
from sidedoor.tasks.task import Task
from sidedoor.types import Purify


@dataclass(frozen=True)
class Rotation(Purifier):
    """Rotate inputs about their centre, bilinear, with black corners.

    The angle depends on the run's seed and the sample's index only.

    Args:
        degrees: largest angle to either side, in [0, 180].
    """

    origins: ClassVar[dict[str, str]] = {"degrees": "paper: Tables VI and VII"}

    degrees: Annotated[float, Bounds(0.0, 180.0)] = 15.0

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Purify:
        seed = run.rng("angles").initial_seed()
        return in_place(lambda x, index: turned(x, self.degrees * (2 * random.uniform(seed, index) - 1)))
