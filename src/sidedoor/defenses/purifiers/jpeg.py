"""JPEG compression: a purifier that discards the detail that a lossy encoder does.

Paper: Xue, Wang, Sun, Zhang, Wang, Liu, "Compression-Resistant Backdoor Attack against Deep Neural Networks", 2022,
arXiv:2201.00672, on the defence; against image-to-image backdoors Jiang et al., arXiv:2407.10445, section 6.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import nn

from sidedoor.data.base import Dataset
from sidedoor.data.jpeg import compressed
from sidedoor.defenses.purifiers.base import Purifier, in_place
from sidedoor.engine import Run
from sidedoor.method import Bounds
from sidedoor.tasks.task import Task
from sidedoor.types import Purify


@dataclass(frozen=True)
class Jpeg(Purifier):
    """Write inputs as JPEG files and read them again; noise outside [0, 1] is clipped by that.

    Args:
        quality: of the encoder, 1 to 95.
    """

    origins: ClassVar[dict[str, str]] = {"quality": "ours: the papers try several; Pillow's default"}
    tasks: ClassVar[tuple[type[Task], ...]] = (Task,)

    quality: Annotated[int, Bounds(1, 95)] = 75

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Purify:
        return in_place(lambda x, index: compressed(x, self.quality))
