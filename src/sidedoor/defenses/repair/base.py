"""What a repair is, and one whose strength is chosen by its accuracy on clean samples."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, final

from torch import Tensor, nn

from sidedoor.core.logs import warn_once
from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Defense, Needs, Stage
from sidedoor.engine import Run
from sidedoor.method import Share
from sidedoor.tasks.task import Task
from sidedoor.types import Batch

FEW = 100
"""Clean samples below which a drop in accuracy of a few points cannot be told from none."""


class Repair(Defense, ABC):
    """Removes a backdoor from a model with a little clean data."""

    stage: ClassVar[Stage] = Stage("repair", "repair", "removes a backdoor from a model", 2, several=True)
    needs: ClassVar[Needs] = Needs(model="weights", clean="labelled")

    @abstractmethod
    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        """A new model; the one given is left alone."""


class Step(NamedTuple):
    """A place on the path of a repair.

    Args:
        strength: 0 for the model as it was given.
        model: valid until the next step is asked for; copy what is kept.
        accuracy: on the defender's clean samples, in [0, 1].
    """

    strength: float
    model: nn.Module
    accuracy: float


@dataclass(frozen=True)
class TunedRepair(Repair, ABC):
    """A repair that can be weak or strong: the strongest whose clean accuracy is good enough is taken, and finished.

    The choice is made on clean samples that the model has not been trained on, before `finish` trains on them, so that
    they serve for both; nothing is chosen afterwards.

    Args:
        largest_drop: accuracy on the clean samples that the repair may cost before it is finished, in [0, 1].
    """

    largest_drop: Share = 0.1

    @abstractmethod
    def path(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Iterator[tuple[float, nn.Module]]:
        """(strength, model) from weak to strong, strength 0 first; each when it is asked for. The model given is left
        alone, those on the path may be one that changes.
        """

    def finish(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        """What becomes of the model of the chosen strength, which is the method's to change."""
        return model

    @final
    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        return self.finish(self.chosen(self.steps(model, clean, task, run)).model, clean, task, run)

    @final
    def steps(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Iterator[Step]:
        """The path with the accuracy on the clean samples."""
        if len(clean) < FEW:
            warn_once(f"{len(clean)} clean samples choose the strength of {type(self).__name__}; a drop of "
                       f"{self.largest_drop:.0%} is hard to tell with fewer than {FEW}")
        for strength, repaired in self.path(model, clean, task, run):
            yield Step(strength, repaired, _agreement(repaired, clean, task, run))

    @final
    def chosen(self, steps: Iterable[Step]) -> Step:
        """The strongest step within `largest_drop` of the first, its model a copy."""
        found: list[Step] = []
        first = None
        for step in steps:
            first = step.accuracy if first is None else first
            if step.accuracy >= first - self.largest_drop:
                found = [step._replace(model=copy.deepcopy(step.model))]
        return found[0]


def _agreement(model: nn.Module, clean: Dataset, task: Task, run: Run) -> float:
    def rows(batch: Batch) -> dict[str, Tensor]:
        return {"agree": task.agree(task.predict(model, batch.x), batch.y)}

    return run.per_sample(model, clean, rows)["agree"].mean().item()
