"""The currency between modules: batches, triggers, goals, doors, poison, tasks. Everything else imports this.

An image batch is `(b, c, h, w)` float32; photographs live in [0, 1] and normalisation is the model's first layer.
"""

from __future__ import annotations

import enum
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

if TYPE_CHECKING:
    from sidedoor.data.base import Dataset
    from sidedoor.engine import Run

Images = Float[Tensor, "b c h w"]
Index = Int[Tensor, "b"]
Build = Callable[[], nn.Module]
Purify = Callable[[Images, Index], tuple[Images, Callable[[Any], Any]]]
"""What a fitted purifier is: (x, index) -> (x, undo); `undo` realigns dense outputs after a flip or shift."""


class Batch(NamedTuple):
    """Samples on one device. `index` is the position in the base data set and keys per-sample randomness."""

    x: Tensor
    y: Tensor
    index: Tensor  # type: ignore[assignment]  # shadows tuple.index, which nobody misses


class Space(NamedTuple):
    """The values an image may take: the range, and the number of steps that storage keeps (None: not stored)."""

    low: float
    high: float
    levels: int | None


PHOTO = Space(0.0, 1.0, 255)
MEASUREMENT = Space(-math.inf, math.inf, None)


class Access(enum.Enum):
    """What an attacker can touch."""

    DATA = "data"
    TRAINING = "training"
    WEIGHTS = "weights"


def joined(first: Batch, second: Batch) -> Batch:
    """Two batches as one."""
    return Batch(*map(torch.cat, zip(first, second, strict=True)))


class Trigger(nn.Module, ABC):
    """What the attacker puts into an image.

    It neither clips nor rounds (`stamp` does), never writes into `x`, keeps its state in buffers, and treats each
    sample alone: per-image randomness is keyed by (seed, index).
    """

    @abstractmethod
    def forward(self, x: Images, index: Index) -> Images:
        """The images with the trigger, of the same shape, before clipping and rounding."""


class _Round(torch.autograd.Function):
    """Rounding whose gradient is the identity (straight-through)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def stamp(trigger: Trigger, x: Images, index: Index, space: Space) -> Images:
    """Stamp images and store them: the one place that clips to the space and rounds to its levels.

    A trigger that 8-bit storage would destroy is destroyed here. The gradient passes straight through the rounding.
    It is stamped in full precision, whatever the network that looks at it computes in.
    """
    if space.levels is None:
        return _stamped(trigger, x, index).clamp(space.low, space.high)
    return from_levels(stamp_levels(trigger, x, index, space), space)


def stamp_levels(trigger: Trigger, x: Images, index: Index, space: Space) -> Images:
    """What a file of a stamped image keeps: whole numbers in [0, levels], still as floating point."""
    levels = to_levels(_stamped(trigger, x, index).clamp(space.low, space.high), space)
    rounded: Tensor = _Round.apply(levels) if levels.requires_grad else levels.round_()
    return rounded


def _stamped(trigger: Trigger, x: Images, index: Index) -> Images:
    with torch.autocast(x.device.type, enabled=False):
        stamped: Tensor = trigger(x, index)
    return stamped


def to_levels(x: Images, space: Space) -> Images:
    """Values of a space with levels as numbers in [0, levels], not rounded."""
    assert space.levels is not None
    unit = x if (space.low, space.high) == (0.0, 1.0) else (x - space.low) / (space.high - space.low)
    return unit * space.levels


def from_levels(levels: Images, space: Space) -> Images:
    """Numbers in [0, levels] as values of the space; the one formula, so that what was stored is read back exactly."""
    assert space.levels is not None
    unit = levels / space.levels
    return unit if (space.low, space.high) == (0.0, 1.0) else unit * (space.high - space.low) + space.low


class Goal(ABC):
    """What the attacker wants a triggered input to lead to. Goals are frozen dataclasses.

    Attributes:
        network: the kind of network that it is for, as `Task.network`.
    """

    network: ClassVar[str] = "classes"

    def parts(self) -> tuple[Goal, ...]:
        """The goals reached by one trigger each; more than one for a goal of several targets."""
        return (self,)

    @abstractmethod
    def target(self, task: Task, y: Tensor, index: Index) -> Tensor:
        """The target that the attacker trains triggered samples towards."""

    @abstractmethod
    def eligible(self, task: Task, y: Tensor) -> Bool[Tensor, "b"]:
        """The samples on which reaching the goal means anything: a sample already of the target class is none."""

    def success(self, task: Task, output: Any, y: Tensor, index: Index) -> Float[Tensor, "b"]:
        """In [0, 1] a sample: whether (or how nearly) the output reaches the goal."""
        return task.agree(output, self.target(task, y, index))


@dataclass(frozen=True)
class Door:
    """One way in: a trigger and what it is meant to do. Unscored doors are variants used in training only."""

    trigger: Trigger
    goal: Goal
    scored: bool = True


@dataclass
class Poison:
    """What was changed in the training data, as rows, never as a copy of the set.

    Args:
        index: positions in the training set, ascending and without repeats.
        door: for each row, which of the backdoor's doors stamps it.
        cover: rows that are stamped but keep their true label.
        images: None: the row's door stamps it. Else crafted images (k, c, h, w) in the set's storage type.
        targets: None: the door's goal gives the label. Else the labels as given.
        append: rows are added to the set instead of replaced.
        rate: share of the eligible samples that was poisoned, cover rows not counted: what reports print.
    """

    index: Int[Tensor, "k"]
    door: Int[Tensor, "k"]
    cover: Bool[Tensor, "k"]
    images: Tensor | None = None
    targets: Tensor | None = None
    append: bool = False
    rate: float = 0.0

    @staticmethod
    def none() -> Poison:
        """No row at all: as of an attacker who trains on no fixed set."""
        empty = torch.zeros(0, dtype=torch.int64)
        return Poison(empty, empty.clone(), torch.zeros(0, dtype=torch.bool))


@dataclass
class Planted:
    """What a training attacker delivers: the model, and the doors with their learned triggers."""

    model: nn.Module
    doors: tuple[Door, ...]


Train = Callable[["Dataset", "Task", Build, "Run"], Planted]


@dataclass
class Backdoor:
    """The value an attack returns. `train` is None where the victim trains, on the training data with the poison."""

    doors: tuple[Door, ...]
    poison: Poison = field(default_factory=Poison.none)
    train: Train | None = None


@dataclass
class Scores:
    """Four numbers in [0, 1] a sample, and further columns. Not eligible: NaN in attack, recovered and idle.

    With several doors their rows follow one another; `clean` has each sample once. The column `asr_all` is the attack
    over all samples, eligible or not, for comparison with papers that count so.
    """

    clean: Float[Tensor, "n"]
    attack: Float[Tensor, "n"]
    recovered: Float[Tensor, "n"]
    idle: Float[Tensor, "n"]
    columns: dict[str, Float[Tensor, "n"]] = field(default_factory=dict)

    def means(self) -> dict[str, float | None]:
        """Mean of each number over the samples that have it; None where no sample does."""
        named = {"clean": self.clean, "attack": self.attack, "recovered": self.recovered, "idle": self.idle}
        return {name: _mean(values) for name, values in (named | self.columns).items()}


def _mean(values: Tensor) -> float | None:
    mean = values.double().nanmean().item()
    return None if math.isnan(mean) else mean


class Task(ABC):
    """What the model is for: its loss, its prediction, and when two outputs agree.

    Attributes:
        per_sample: whether a loss of each sample exists; methods that need it are refused where it does not.
        binary: whether each of the four numbers is 0 or 1 for a sample, so that a mean is a share.
        network: what a network for this task is told beside the shape of its inputs, "classes" or "scale".
        classes: number of classes, for tasks that have them.
        scale: height of the outputs over height of the inputs, where outputs are images.
    """

    per_sample: ClassVar[bool] = True
    binary: ClassVar[bool] = True
    network: ClassVar[str] = "classes"
    classes: int
    scale: int = 1

    def pairs(self, data: Dataset) -> Dataset:
        """The task's own inputs and targets, made of a data set's images; the data set itself where it has both."""
        return data

    def prepared(self, photographs: Dataset, run: Run) -> Task:
        """The task with whatever its scores need that must first be trained, on what the victim trains on."""
        return self

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """(b,) losses, or a scalar where `per_sample` is False."""

    @abstractmethod
    def predict(self, model: nn.Module, x: Images) -> Any:
        """The output that `agree` compares."""

    @abstractmethod
    def agree(self, output: Any, target: Tensor) -> Float[Tensor, "b"]:
        """In [0, 1] a sample: how well an output matches a target."""

    @abstractmethod
    def distance(self, a: Any, b: Any) -> Float[Tensor, "b"]:
        """How far two outputs are apart, at least 0."""

    @abstractmethod
    def failed(self, scores: dict[str, float | None], reference: dict[str, float | None]) -> str | None:
        """Why the attack counts as failed beside its clean sibling (means of scores), or None."""

    def columns(self, batch: Batch, clean_out: Any, stamped_out: Any | None, door: Door | None) -> dict[str, Tensor]:
        """Further per-sample figures, without a door those of the clean output; none unless a task has them."""
        return {}

    def score(
        self, model: nn.Module, data: Dataset, door: Door | None, run: Run, purify: Purify | None = None
    ) -> Scores:
        """The four numbers over a clean test set. A closed-loop task overrides this with its own loop."""
        table = run.per_sample(model, data, _Scorer(self, model, data.space, door, purify))
        return Scores(table["clean"], table["attack"], table["recovered"], table["idle"],
                      {k: v for k, v in table.items() if k not in ("clean", "attack", "recovered", "idle")})


def output(task: Task, model: nn.Module, x: Images, index: Index, purify: Purify | None) -> Any:
    """What the model predicts, behind a purifier if there is one."""
    if purify is None:
        return task.predict(model, x)
    purified, undo = purify(x, index)
    return undo(task.predict(model, purified))


@dataclass
class _Scorer:
    """Rows of the four numbers for one batch."""

    task: Task
    model: nn.Module
    space: Space
    door: Door | None
    purify: Purify | None

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        x, y, index = batch
        clean_out = output(self.task, self.model, x, index, self.purify)
        clean = self.task.agree(clean_out, y)
        if self.door is None:
            missing = torch.full_like(clean, torch.nan)
            columns = self.task.columns(batch, clean_out, None, None)
            return {"clean": clean, "attack": missing, "recovered": missing, "idle": missing} | columns
        goal = self.door.goal
        stamped = stamp(self.door.trigger, x, index, self.space)
        stamped_out = output(self.task, self.model, stamped, index, self.purify)
        eligible = goal.eligible(self.task, y)
        rows = {
            "attack": goal.success(self.task, stamped_out, y, index),
            "recovered": self.task.agree(stamped_out, y),
            "idle": goal.success(self.task, clean_out, y, index),
        }
        columns = {"asr_all": rows["attack"]} | self.task.columns(batch, clean_out, stamped_out, self.door)
        return {"clean": clean} | {k: torch.where(eligible, v, torch.nan) for k, v in rows.items()} | columns
