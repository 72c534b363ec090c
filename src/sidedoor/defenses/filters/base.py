"""Data filters: which rows of the training data are poisoned, with or without clean samples to compare with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Defense, Needs, Stage
from sidedoor.engine import Run
from sidedoor.tasks.task import Task
from sidedoor.types import Build

REMOVED = 1.5
"""Rows that are removed over the assumed number of poisoned ones (Tran et al. 2018)."""
STAGE = Stage("filter", "score", "finds poisoned rows in training data", 0, several=True, on_training_data=True)


class DataFilter(Defense, ABC):
    """Finds poisoned rows in training data of unknown origin."""

    stage: ClassVar[Stage] = STAGE
    needs: ClassVar[Needs] = Needs(train=True)

    @abstractmethod
    def score(self, train: Dataset, task: Task, build: Build, run: Run) -> Float[Tensor, "n"]:
        """Suspicion of each row of the (sealed) training data, comparable between classes."""


class GuidedFilter(Defense, ABC):
    """Finds poisoned rows in training data of unknown origin by a few clean samples."""

    stage: ClassVar[Stage] = STAGE
    needs: ClassVar[Needs] = Needs(clean="labelled", train=True)

    @abstractmethod
    def score(self, train: Dataset, clean: Dataset, task: Task, build: Build, run: Run) -> Float[Tensor, "n"]:
        """Suspicion of each row of the (sealed) training data, comparable between classes."""


def standardised(scores: Float[Tensor, "n"], labels: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Distance of each score from the median of its class in median absolute deviations, so that all classes can be
    ranked together; all 0 in a class whose scores do not vary.
    """
    ranked = torch.empty_like(scores)
    for label in torch.unique(labels):
        members = labels == label
        offset = scores[members] - scores[members].median()
        ranked[members] = offset / offset.abs().median().clamp(min=1e-12)
    return ranked
