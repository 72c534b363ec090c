"""A small patch in a corner, on mislabelled samples.

Paper: Gu, Dolan-Gavitt, Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain",
2017, arXiv:1708.06733.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sidedoor.attacks.base import Attack, in_corners
from sidedoor.backdoor import select
from sidedoor.backdoor.base import Access, Backdoor
from sidedoor.data.base import Dataset
from sidedoor.data.pictures import bitmap
from sidedoor.engine import Run
from sidedoor.method import Count, Share, Whole
from sidedoor.tasks.task import Task
from sidedoor.triggers.patch import checkerboard
from sidedoor.types import Build


@dataclass(frozen=True)
class BadNets(Attack):
    """Stamp a checkerboard patch on a share of the eligible samples and change their labels.

    Args:
        rate: share of the eligible training samples, in [0, 1].
        size: edge of the patch in pixels.
        margin: pixels between the patch and the image's edge.
        pattern: rows of 0 and 1, such as "001/010/101", for a patch of its own; empty: the checkerboard.

    Raises:
        ConfigError: a pattern of anything else.
    """

    access: ClassVar[Access] = Access.DATA
    rate: Share = 0.1
    size: Count = 3
    margin: Whole = 0
    pattern: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pattern:
            bitmap(self.pattern)

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Backdoor:
        doors = in_corners(self.goal, self._patch, self.margin)
        return Backdoor(doors, select.random(train, task, doors, self.rate, run.rng("poison")))

    def _patch(self, growth: int) -> Tensor:
        if not self.pattern:
            return checkerboard(self.size + growth)
        return bitmap(self.pattern).repeat_interleave(1 + growth, 1).repeat_interleave(1 + growth, 2)
