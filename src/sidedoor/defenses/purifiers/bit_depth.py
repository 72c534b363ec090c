"""Bit-depth reduction: a purifier that rounds inputs to few levels.

Paper: Xu, Evans, Qi, "Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks", NDSS 2018,
arXiv:1704.01155; against image-to-image backdoors Jiang et al., arXiv:2407.10445, section 6.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import nn

from sidedoor.data.base import Dataset
from sidedoor.defenses.purifiers.base import Purifier, in_place
from sidedoor.engine import Run
from sidedoor.method import Bounds
from sidedoor.tasks.task import Task
from sidedoor.types import Purify


@dataclass(frozen=True)
class BitDepth(Purifier):
    """Round inputs to 2^bits levels of [0, 1]; noise outside that range is clipped, as by storing a file.

    Args:
        bits: 1 to 8.
    """

    origins: ClassVar[dict[str, str]] = {"bits": "paper: the middle one of Jiang et al.'s 6, 5 and 4 (Table 12)"}
    tasks: ClassVar[tuple[type[Task], ...]] = (Task,)

    bits: Annotated[int, Bounds(1, 8)] = 5

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Purify:
        steps = 2**self.bits - 1
        return in_place(lambda x, index: (x.clamp(0, 1) * steps).round() / steps)
