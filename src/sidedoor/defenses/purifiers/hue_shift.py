"""Hue shift: a purifier that turns all colours by one angle.

Paper: Li, Zhong, Ma, Jiang, Xia, "Few-Shot Backdoor Attacks on Visual Object Tracking", ICLR 2022, arXiv:2201.13178,
which pre-processes video frames by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import nn
from torchvision.transforms import functional

from sidedoor.data.base import Dataset
from sidedoor.defenses.purifiers.base import Purifier, in_place
from sidedoor.engine import Run
from sidedoor.method import Bounds
from sidedoor.tasks.task import Task
from sidedoor.types import Purify


@dataclass(frozen=True)
class HueShift(Purifier):
    """Add a share of the colour circle to the hue of every pixel; what has no colour stays as it is, as grey images do.

    Args:
        shift: of the circle, in [-0.5, 0.5].
    """

    origins: ClassVar[dict[str, str]] = {"shift": "ours: open in the paper"}
    tasks: ClassVar[tuple[type[Task], ...]] = (Task,)

    shift: Annotated[float, Bounds(-0.5, 0.5)] = 0.2

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Purify:
        return in_place(lambda x, index: functional.adjust_hue(x.clamp(0, 1), self.shift).clamp(0, 1))
