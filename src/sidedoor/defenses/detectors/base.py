"""What an input detector is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Defense, Stage
from sidedoor.engine import Run
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Index

Detect = Callable[[Images, Index], Float[Tensor, "b"]]
"""What a fitted input detector is: (x, index) -> suspicion of each input."""


class InputDetector(Defense, ABC):
    """Recognises triggered inputs at test time."""

    stage: ClassVar[Stage] = Stage("input_detector", "fit", "recognises triggered inputs", 4)

    @abstractmethod
    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        """A function from inputs to suspicion."""
