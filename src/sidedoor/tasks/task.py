"""What every task is: its loss, its prediction, when two outputs agree, and the four numbers of a model."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sidedoor.core import random
from sidedoor.core.terms import ANY, Terms
from sidedoor.data.base import Dataset
from sidedoor.engine import Objective, Run
from sidedoor.goals.base import Door, Goal
from sidedoor.triggers.base import stamp
from sidedoor.types import Batch, Images, Index, Purify, Space


@dataclass
class Scores:
    """Four numbers in [0, 1] a sample, and further columns. Not eligible: NaN in attack, recovered and idle.

    With several doors their rows follow one another; `clean` has each sample once. The column `asr_all` is the attack
    over all samples, eligible or not, for comparison with papers that count so.
    """

    clean: Float[Tensor, "n"]
    attack: Float[Tensor, "stamped"]
    recovered: Float[Tensor, "stamped"]
    idle: Float[Tensor, "stamped"]
    columns: dict[str, Float[Tensor, "_"]] = field(default_factory=dict)

    def means(self) -> dict[str, float | None]:
        """Mean of each number over the samples that have it; None where no sample does."""
        named = {"clean": self.clean, "attack": self.attack, "recovered": self.recovered, "idle": self.idle}
        return {name: _mean(values) for name, values in (named | self.columns).items()}


class Task(ABC):
    """What the model is for: its loss, its prediction, and when two outputs agree.

    Attributes:
        per_sample: whether a loss of each sample exists; methods that need it are refused where it does not.
        binary: whether each of the four numbers is 0 or 1 for a sample, so that a mean is a share.
        output: what a network gives for an input, "labels" or "image".
        classes: number of classes, for tasks that have them.
        terms: the names of its four numbers.
        scale: height of the outputs over height of the inputs, where outputs are images.
    """

    per_sample: ClassVar[bool] = True
    binary: ClassVar[bool] = True
    output: ClassVar[str] = "labels"
    terms: ClassVar[Terms] = ANY
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

    def reached(self, goal: Goal, output: Any, y: Tensor, index: Index) -> Float[Tensor, "b"]:
        """The goal's success; 0 for an output that is not finite, whatever class its largest value seems to have."""
        return torch.where(self.finite(output), goal.success(self, output, y, index), 0.0)

    def columns(self, batch: Batch, clean_out: Any, stamped_out: Any | None, door: Door | None) -> dict[str, Tensor]:
        """Further per-sample figures, without a door those of the clean output; none unless a task has them."""
        return {}

    def score(
        self, model: nn.Module, data: Dataset, door: Door | None, run: Run, purify: Purify | None = None
    ) -> Scores:
        """The four numbers over a clean test set. A closed-loop task overrides this with its own loop."""
        asked = Asked.about(data, self, model, purify, run)
        table = run.per_sample(model, data, _Scorer(self, asked, data.space, door))
        return Scores(table["clean"], table["attack"], table["recovered"], table["idle"],
                      {k: v for k, v in table.items() if k not in ("clean", "attack", "recovered", "idle")})


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

    Behind a purifier both go in together, in an order that it cannot guess: one that counts its calls, or compares the
    images of a batch, must not learn which of them carry the trigger.

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

    def outputs(self, batch: Batch, stamped: Images | None) -> tuple[Any, Any]:
        """Predictions for a batch, and for the same with the trigger; None without one."""
        if self.purify is None:
            return (self.task.predict(self.model, batch.x),
                    None if stamped is None else self.task.predict(self.model, stamped))
        x = batch.x if stamped is None else torch.cat([batch.x, stamped])
        index = batch.index if stamped is None else batch.index.repeat(2)
        order = random.uniform(self.secret, torch.arange(len(x)) + len(x) * int(batch.index[0])).argsort().to(x.device)
        purified, undo = self.purify(x[order], index[order])
        output = undo(self.task.predict(self.model, purified))[order.argsort()]
        return (output, None) if stamped is None else tuple(output.chunk(2))


@dataclass
class _Scorer:
    """Rows of the four numbers for one batch."""

    task: Task
    asked: Asked
    space: Space
    door: Door | None

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        x, y, index = batch
        stamped = None if self.door is None else stamp(self.door.trigger, x, index, self.space)
        clean_out, stamped_out = self.asked.outputs(batch, stamped)
        clean = self.task.agree(clean_out, y)
        if self.door is None:
            missing = torch.full_like(clean, torch.nan)
            columns = self.task.columns(batch, clean_out, None, None)
            return {"clean": clean, "attack": missing, "recovered": missing, "idle": missing} | columns
        goal = self.door.goal
        eligible = goal.eligible(self.task, y)
        rows = {
            "attack": self.task.reached(goal, stamped_out, y, index),
            "recovered": self.task.agree(stamped_out, y),
            "idle": self.task.reached(goal, clean_out, y, index),
        }
        columns = {"asr_all": rows["attack"]} | self.task.columns(batch, clean_out, stamped_out, self.door)
        return {"clean": clean} | {k: torch.where(eligible, v, torch.nan) for k, v in rows.items()} | columns


def _mean(values: Tensor) -> float | None:
    mean = values.double().nanmean().item()
    return None if math.isnan(mean) else mean
