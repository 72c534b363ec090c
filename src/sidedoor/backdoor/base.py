"""The value that an attack returns: doors, poisoned rows, and the attacker's training if there is one."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.goals.base import Door
from sidedoor.tasks.task import Supervised, Task
from sidedoor.types import Build


class Access(enum.Enum):
    """The attacker's access."""

    DATA = "data"
    TRAINING = "training"
    WEIGHTS = "weights"


@dataclass
class Poison:
    """What was changed in the training data, as rows, never as a copy of the set.

    Args:
        index: positions in the training set, ascending and without repeats.
        door: for each row, which of the backdoor's doors stamps it.
        cover: rows that are stamped but keep their true label.
        images: None: the row's door stamps it; otherwise crafted images (k, c, h, w) in the set's storage type.
        targets: None: the door's goal gives the label; otherwise the labels as given.
        append: rows are added to the set instead of replaced.
        rate: share of the eligible samples that was poisoned, not counting cover rows, for reports.

    Raises:
        ConfigError: the numbers of rows, doors and cover marks differ.
    """

    index: Int[Tensor, "k"]
    door: Int[Tensor, "k"]
    cover: Bool[Tensor, "k"]
    images: Tensor | None = None
    targets: Tensor | None = None
    append: bool = False
    rate: float = 0.0

    def __post_init__(self) -> None:
        rows, doors, marks = len(self.index), len(self.door), len(self.cover)
        if not rows == doors == marks:
            raise ConfigError(f"poison has {rows} rows, {doors} doors and {marks} cover marks; expected equal numbers")

    @staticmethod
    def none() -> Poison:
        """No rows, for an attacker whose training uses no fixed set."""
        empty = torch.zeros(0, dtype=torch.int64)
        return Poison(empty, empty.clone(), torch.zeros(0, dtype=torch.bool))


@dataclass(frozen=True)
class AttackerRun(Run):
    """A run as an attacker gets it: with the clean model, which a defender must not have.

    Args:
        known: gives the clean model where one is stored, as in the bench.
        memory: keeps clean models where none is stored.
    """

    known: Callable[[], nn.Module] | None = None
    memory: dict[str, nn.Module] = field(default_factory=dict)

    @staticmethod
    def of(run: Run, known: Callable[[], nn.Module] | None = None) -> AttackerRun:
        """A run that has a clean model."""
        return AttackerRun(**{name: getattr(run, name) for name in Run.__dataclass_fields__}, known=known)

    def clean_model(self, build: Build, data: Dataset, task: Task) -> nn.Module:
        """The network as an honest victim trains it; copy it before you change it.

        It is the clean sibling of a specification, else trained here by streams of its own and remembered.
        """
        if self.known is not None:
            return self.known()
        name = f"{data.fingerprint()}/{task}"
        if name not in self.memory:
            run = replace(self, scope="", history={})
            self.memory[name] = run.fit(run.build(build), data, Supervised(task), name="honest")
        return self.memory[name]


@dataclass
class Planted:
    """What a training attacker delivers: the model, and the doors with their learned triggers."""

    model: nn.Module
    doors: tuple[Door, ...]


Train = Callable[[Dataset, Task, Build, AttackerRun], Planted]


@dataclass
class Backdoor:
    """The value an attack returns. `train` is None where the victim trains, on the training data with the poison."""

    doors: tuple[Door, ...]
    poison: Poison = field(default_factory=Poison.none)
    train: Train | None = None
