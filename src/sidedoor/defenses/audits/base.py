"""What a model audit is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn

from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Defense, Stage
from sidedoor.engine import Run
from sidedoor.evidence import Finding
from sidedoor.tasks.task import Task


class ModelAudit(Defense, ABC):
    """Says whether a model has a backdoor."""

    stage: ClassVar[Stage] = Stage("audit", "inspect", "says whether a model has a backdoor", 3, compared=True)

    @abstractmethod
    def inspect(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Finding:
        """What it says of a model, which is left alone."""
