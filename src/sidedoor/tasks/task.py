"""What every task is: its loss, its prediction, when two outputs agree, and the four numbers of a model."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sidedoor.core import random
from sidedoor.core.terms import ANY, Terms
from sidedoor.data.base import Dataset
from sidedoor.engine import Objective, Run
from sidedoor.goals.base import Door, Goal
from sidedoor.triggers.base import stamp
from sidedoor.types import Batch, Images, Index, Purify, Space

BATCH = 512
"""Test images at a time."""
Rows = Callable[[Batch, Any, Any | None, Door | None], dict[str, Tensor]]

@dataclass
class Scores:
    """Four numbers in [0, 1] a sample, and further columns. Not eligible: NaN in attack, recovered and idle.

    With several doors their rows follow one another; `clean` has each sample once. The column `asr_all` is the attack
    over all samples, eligible or not, for comparison with papers that count so.

    Args:
        groups: rows whose mean counts as one, such as the frames of a clip, for each row of `clean`; None: each row
            counts.
    """

    clean: Float[Tensor, "n"]
    attack: Float[Tensor, "stamped"]
    recovered: Float[Tensor, "stamped"]
    idle: Float[Tensor, "stamped"]
    columns: dict[str, Float[Tensor, "_"]] = field(default_factory=dict)
    groups: Int[Tensor, "n"] | None = None

    def means(self) -> dict[str, float | None]:
        """Mean of each number over the samples that have it; None where no sample does."""
        named = {"clean": self.clean, "attack": self.attack, "recovered": self.recovered, "idle": self.idle}
        return {name: _mean(values, self.groups) for name, values in (named | self.columns).items()}


class Task(ABC):
    """What the model is for: its loss, its prediction, and when two outputs agree.

    Attributes:
        per_sample: whether a loss of each sample exists; methods that need it are refused where it does not.
        binary: whether each of the four numbers is 0 or 1 for a sample, so that a mean is a share.
        output: what a network gives for an input, "labels", "image" or "response" (a tracker's).
        classes: number of classes, for tasks that have them.
        terms: the names of its four numbers.
        compared: beginnings of names of columns that records have of the clean sibling, too, through the same doors, as
            "sibling.NAME".
        scale: height of the outputs over height of the inputs, where outputs are images.
    """

    per_sample: ClassVar[bool] = True
    binary: ClassVar[bool] = True
    output: ClassVar[str] = "labels"
    terms: ClassVar[Terms] = ANY
    compared: ClassVar[tuple[str, ...]] = ()
    classes: int
    scale: int = 1

    def make_dataset(self, data: Dataset) -> Dataset:
        """The task's own inputs and targets, made of a data set's images; the data set itself where it has both."""
        return data

    def setup(self, photographs: Dataset, run: Run) -> Task:
        """The task with the networks that its scores need, trained on the victim's data."""
        return self

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """(b,) losses, or a scalar where `per_sample` is False."""

    @abstractmethod
    def predict(self, model: nn.Module, x: Images) -> Any:
        """The output that `agree` compares."""

    @abstractmethod
    def agree(self, output: Any, target: Tensor) -> Float[Tensor, "b"]:
        """In [0, 1] a sample: how well an output matches a target; 0 for an output that is not finite."""

    @abstractmethod
    def distance(self, a: Any, b: Any) -> Float[Tensor, "b"]:
        """How far two outputs are apart, at least 0."""

    @abstractmethod
    def failed(self, scores: dict[str, float | None], clean_means: dict[str, float | None]) -> str | None:
        """Why the attack counts as failed beside its clean sibling (means of scores), or None."""

    def finite(self, output: Any) -> Bool[Tensor, "b"]:
        """Which outputs are finite throughout; of the others nothing is said but that they are wrong."""
        return torch.as_tensor(output).flatten(1).isfinite().all(1)

    def triggered(self, door: Door, batch: Batch, space: Space) -> Images:
        """Test inputs with the trigger, as a person who knows it would present them."""
        return stamp(door.trigger, batch.x, batch.index, space)

    def reached(self, goal: Goal, output: Any, y: Tensor, index: Index) -> Float[Tensor, "b"]:
        """The goal's success; 0 for an output that is not finite, whatever class its largest value seems to have."""
        return torch.where(self.finite(output), goal.success(self, output, y, index), 0.0)

    def columns(self, batch: Batch, clean_out: Any, stamped_out: Any | None, door: Door | None) -> dict[str, Tensor]:
        """Further per-sample figures, without a door those of the clean output; none unless a task has them."""
        return {}

    @final
    def score(self, model: nn.Module, data: Dataset, door: Door | None, run: Run, purify: Purify | None = None) \
            -> Scores:
        """The four numbers over a clean test set, through one door or, without it, the clean one alone."""
        return self.scores(model, data, [] if door is None else [door], run, purify)[0]

    def scores(self, model: nn.Module, data: Dataset, doors: Sequence[Door], run: Run, purify: Purify | None = None) \
            -> list[Scores]:
        """Those through each door, from one pass over the clean images; without a door the clean number alone.

        A closed-loop task overrides this with its own loop.
        """
        tables = Asked.about(data, self, model, purify, run).tables(data, doors, run, self._rows)
        return [Scores(table.pop("clean"), table.pop("attack"), table.pop("recovered"), table.pop("idle"), table)
                for table in tables]

    def _rows(self, batch: Batch, clean_out: Any, stamped_out: Any | None, door: Door | None) -> dict[str, Tensor]:
        """The four numbers of a batch, and further columns."""
        columns = self.columns(batch, clean_out, stamped_out, door)
        clean = self.agree(clean_out, batch.y)
        if door is None:
            missing = torch.full_like(clean, torch.nan)
            return {"clean": clean, "attack": missing, "recovered": missing, "idle": missing} | columns
        rows = {
            "attack": self.reached(door.goal, stamped_out, batch.y, batch.index),
            "recovered": self.agree(stamped_out, batch.y),
            "idle": self.reached(door.goal, clean_out, batch.y, batch.index),
        }
        eligible = door.goal.eligible(self, batch.y)
        return {"clean": clean} | {k: torch.where(eligible, v, torch.nan) for k, v in rows.items()} \
            | {"asr_all": rows["attack"]} | columns


class Supervised(Objective):
    """The task's own loss, which an honest victim minimises."""

    def __init__(self, task: Task):
        super().__init__()
        self.task = task

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.task.loss(model, batch).mean()[None]


@dataclass(frozen=True)
class Asked:
    """A model with the way in which it is asked about test images and the same images with a trigger.

    Behind a purifier all go in together, in an order that it cannot guess: one that counts its calls, or compares the
    images of a batch, must not learn which of them carry a trigger.

    Args:
        purify: a fitted purifier that stands before the model.
        secret: decides that order.
    """

    task: Task
    model: nn.Module
    purify: Purify | None
    secret: int

    @staticmethod
    def about(data: Dataset, task: Task, model: nn.Module, purify: Purify | None, run: Run) -> Asked:
        """For the images of a data set; the order depends on their content, which only the evaluator has."""
        secret = random.seed_of(run.seed, f"asked/{data.fingerprint()}") if purify else 0
        return Asked(task, model, purify, secret)

    def tables(self, data: Dataset, doors: Sequence[Door], run: Run, rows: Rows) -> list[dict[str, Tensor]]:
        """Columns of per-sample values for each door, in the order of the data; one table without doors.

        Args:
            rows: (batch, output of the clean images, that of the stamped ones, door) -> columns of the batch.
        """
        def of_batch(batch: Batch) -> dict[str, Tensor]:
            outputs, found = self._outputs(batch, doors, data.space), dict[str, Tensor]()
            clean_out = next(outputs)
            for n, door in enumerate(doors or [None]):
                columns = rows(batch, clean_out, next(outputs, None), door)
                found |= {f"{n}/{name}": column for name, column in columns.items()}
            return found

        at_once = 2 * BATCH // (len(doors) + 1) if self.purify and doors else BATCH
        table = run.per_sample(self.model, data, of_batch, max(1, at_once))
        return [{name.partition("/")[2]: column for name, column in table.items() if name.startswith(f"{n}/")}
                for n in range(max(1, len(doors)))]

    def _outputs(self, batch: Batch, doors: Sequence[Door], space: Space) -> Iterator[Any]:
        """Predictions for a batch, and for the same with each trigger."""
        stamped = (self.task.triggered(door, batch, space) for door in doors)
        if self.purify is None:
            yield from (self.task.predict(self.model, x) for x in itertools.chain([batch.x], stamped))
            return
        x, index = torch.cat([batch.x, *stamped]), batch.index.repeat(len(doors) + 1)
        order = random.uniform(self.secret, torch.arange(len(x)) + len(x) * int(batch.index[0])).argsort().to(x.device)
        purified, undo = self.purify(x[order], index[order])
        yield from undo(self.task.predict(self.model, purified))[order.argsort()].chunk(len(doors) + 1)


def _mean(values: Tensor, groups: Tensor | None) -> float | None:
    """Over all rows that have the value; with groups over the means of these."""
    values = values.double()
    if groups is not None:
        members = groups.repeat(len(values) // len(groups))
        values = torch.stack([values[members == group].nanmean() for group in torch.unique(groups)])
    mean = values.nanmean().item()
    return None if math.isnan(mean) else mean
