"""What robust training is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn

from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Defense, Needs, Stage
from sidedoor.engine import Run
from sidedoor.tasks.task import Task
from sidedoor.types import Build


class TrainingDefense(Defense, ABC):
    """Trains a clean model on poisoned data."""

    stage: ClassVar[Stage] = Stage("training", "train", "trains a clean model on poisoned data", on_training_data=True)
    needs: ClassVar[Needs] = Needs(train=True)

    @abstractmethod
    def train(self, train: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        """A new model, trained on the (sealed) training data."""
