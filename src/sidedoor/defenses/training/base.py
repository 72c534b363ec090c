"""Robust training: a clean model from poisoned data, with or without clean samples to help."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn

from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Defense, Needs, Stage
from sidedoor.engine import Run
from sidedoor.tasks.task import Task
from sidedoor.types import Build

STAGE = Stage("training", "train", "trains a clean model on poisoned data", 1, on_training_data=True)


class TrainingDefense(Defense, ABC):
    """Trains a clean model on poisoned data."""

    stage: ClassVar[Stage] = STAGE
    needs: ClassVar[Needs] = Needs(train=True)

    @abstractmethod
    def train(self, train: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        """A new model, trained on the (sealed) training data."""


class AidedTraining(Defense, ABC):
    """Trains a clean model on poisoned data with the help of a few clean samples."""

    stage: ClassVar[Stage] = STAGE
    needs: ClassVar[Needs] = Needs(clean="labelled", train=True)

    @abstractmethod
    def train(self, train: Dataset, clean: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        """A new model, trained on the (sealed) training data with the defender's clean split beside them."""
