"""What a repair is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn

from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Defense, Needs, Stage
from sidedoor.engine import Run
from sidedoor.tasks.task import Task


class Repair(Defense, ABC):
    """Removes a backdoor from a model with a little clean data."""

    stage: ClassVar[Stage] = Stage("repair", "repair", "removes a backdoor from a model", 2, several=True)
    needs: ClassVar[Needs] = Needs(model="weights", clean="labelled")

    @abstractmethod
    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        """A new model; the one given is left alone."""
