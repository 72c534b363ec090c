"""Print and capture: a test condition, a simulated print and photograph of each input; no photograph was taken.

Paper: Li, Zhai, Jiang, Li, Xia, "Backdoor Attack in the Physical World", ICLR 2021 workshop, arXiv:2104.02361, shows
what the real ones do to a backdoor. The simulation and its ranges are ours (`data/print_capture.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sidedoor.data.base import Dataset
from sidedoor.data.print_capture import photographed
from sidedoor.defenses.purifiers.base import Purifier, in_place
from sidedoor.engine import Run
from sidedoor.method import Share
from sidedoor.tasks.task import Task
from sidedoor.types import Purify


@dataclass(frozen=True)
class PrintCapture(Purifier):
    """Print and photograph inputs, both simulated.

    A photograph depends on the run's seed and the sample's index only.

    Args:
        strength: factor on the ranges of all that happens to an image, in [0, 1].
    """

    origins: ClassVar[dict[str, str]] = {"strength": "ours: the ranges as they are"}

    strength: Share = 1.0

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Purify:
        seed = run.rng("photographs").initial_seed()
        return in_place(lambda x, index: photographed(x, index, seed, self.strength))
