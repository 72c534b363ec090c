"""Brightness: a purifier that makes each input darker or brighter by a random factor.

Paper: Li, Zhai, Jiang, Li, Xia, "Backdoor Attack in the Physical World", ICLR 2021 workshop, arXiv:2104.02361, which
has it among the changes that a trigger meets outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sidedoor.core import random
from sidedoor.data.base import Dataset
from sidedoor.defenses.purifiers.base import Purifier, in_place
from sidedoor.engine import Run
from sidedoor.method import Share
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Index, Purify


@dataclass(frozen=True)
class Brightness(Purifier):
    """Multiply inputs by a factor of their own, and clip what is brighter than white.

    The factor depends on the run's seed and the sample's index only.

    Args:
        most: largest change either way, as a share.
    """

    origins: ClassVar[dict[str, str]] = {"most": "release: 0.2, its jitter in training (BackdoorBox)"}
    tasks: ClassVar[tuple[type[Task], ...]] = (Task,)

    most: Share = 0.2

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Purify:
        seed = run.rng("light").initial_seed()

        def purify(x: Images, index: Index) -> Images:
            factor = 1 + self.most * (2 * random.uniform(seed, index, 1, 1, 1) - 1)
            return (x * factor).clamp(clean.space.low, clean.space.high)

        return in_place(purify)
