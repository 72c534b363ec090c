"""The inspection model: what an ordinary trainer makes of training data of unknown origin, for filters to look at."""

from __future__ import annotations

from torch import nn

from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.tasks.task import Supervised, Task
from sidedoor.types import Build


def inspection_model(train: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
    """A model trained on `train` by the victim's recipe; kept on the run's shelf, if it has one, for the next filter
    that looks at the same data.
    """
    def make(own: Run) -> nn.Module:
        return own.fit(own.build(build), train, Supervised(task), name="victim")

    return run.artefact({"inspection": train.fingerprint(), "scope": run.scope}, build, make, scope=run.scope)
