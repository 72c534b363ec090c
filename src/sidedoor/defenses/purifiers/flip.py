"""Flip: a purifier that mirrors each input.

Paper: Li, Zhai, Jiang, Li, Xia, "Backdoor Attack in the Physical World", ICLR 2021 Workshop on Security and Safety in
Machine Learning Systems, arXiv:2104.02361.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from sidedoor.data.base import Dataset
from sidedoor.defenses.purifiers.base import Purifier
from sidedoor.engine import Run
from sidedoor.tasks._image_output import Imaging
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Task
from sidedoor.types import Purify


@dataclass(frozen=True)
class Flip(Purifier):
    """Mirror inputs left to right; outputs that are images are mirrored back."""

    tasks: ClassVar[tuple[type[Task], ...]] = (Classification, Imaging)
    because: ClassVar[str] = "it moves what images show, and nothing moves boxes back"

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Purify:
        return lambda x, index: (x.flip(3), _back)


def _back(output: Any) -> Any:
    return output.flip(3) if isinstance(output, Tensor) and output.ndim == 4 else output
