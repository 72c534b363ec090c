"""What every attack is: hyper-parameters, a declared threat model, one verb; and a base class per threat model."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.backdoor import select
from sidedoor.backdoor.base import Access, AttackerRun, Backdoor, Planted, Poison
from sidedoor.data.base import Dataset
from sidedoor.engine import Objective, Run
from sidedoor.errors import ConfigError
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door, Goal
from sidedoor.method import Method, Share
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised, Task
from sidedoor.triggers.patch import CORNERS, Patch
from sidedoor.types import Build


@dataclass(frozen=True)
class Attack(Method, ABC):
    """An attack under a declared threat model.

    Most attacks derive from `PoisoningAttack`, `CleanLabelAttack`, `TrainingAttack` or `WeightAttack`; those that fit
    none of them, such as one that crafts the poisoned images themselves, implement `plan`.

    Attributes:
        access: what the attacker can touch.
        tasks: the kinds of task that it attacks.
        goals: the kinds of goal that make sense for it, and `because`, why the others do not.
        tags: of the taxonomy `sidedoor.registry.FACETS`, where it differs from its base class; those of access and goal
            follow from these. `sidedoor show` says all of them.

    Args:
        goal: the output that triggered inputs are to lead to.

    Raises:
        ConfigError: a goal that makes no sense for this attack, with the reason.
    """

    access: ClassVar[Access]
    tasks: ClassVar[tuple[type[Task], ...]] = (Classification,)
    goals: ClassVar[tuple[type[Goal], ...]] = (Goal,)
    because: ClassVar[str] = ""
    tags: ClassVar[frozenset[str]] = frozenset({"visible", "agnostic", "poison_label", "fixed", "digital"})

    goal: Goal = AllToOne(0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.goal, self.goals):
            allowed = ", ".join(goal.__name__ for goal in self.goals)
            raise ConfigError(f"{type(self).__name__} cannot pursue {self.goal}: {self.because}; it takes {allowed}")
        if self.goal.output not in {task.output for task in self.tasks}:
            raise ConfigError(f"{type(self).__name__} cannot pursue {self.goal}, whose targets are no targets of "
                              f"{' or '.join(task.__name__ for task in self.tasks)}")

    @abstractmethod
    def plan(self, train: Dataset, task: Task, surrogate: Build, run: AttackerRun) -> Backdoor:
        """Decide the doors, the poisoned rows, and (with access to the training) how the model is trained.

        Args:
            train: the victim's training data, with its labels.
            surrogate: builds a network to derive the trigger from, if the attack needs one. It is the victim's own
                architecture for an attacker who controls the training or edits weights.
        """

    def on_shelf(self, seed: int) -> Any:
        """What decides the networks that it keeps on the run's shelf, beside the training data, as JSON values: attacks
        that say the same share them, and a sweep starts one of them first. None: it keeps none.

        Args:
            seed: of the run.
        """
        return None


@dataclass(frozen=True)
class PoisoningAttack(Attack, ABC):
    """An attack on the training data: its doors stamp a share of the samples, whose labels become the goal's.

    Args:
        rate: share of the eligible training samples, in [0, 1].
    """

    access: ClassVar[Access] = Access.DATA
    rate: Share = 0.1

    @abstractmethod
    def doors(self, train: Dataset, task: Task, surrogate: Build, run: AttackerRun) -> tuple[Door, ...]:
        """The triggers and their goals; the arguments are those of `plan`."""

    def rows(self, train: Dataset, task: Task, doors: tuple[Door, ...], run: AttackerRun) -> Poison:
        """The samples that are poisoned: by default a random share of those eligible for any of the doors."""
        return select.random(train, task, doors, self.rate, run.rng("poison"))

    @final
    def plan(self, train: Dataset, task: Task, surrogate: Build, run: AttackerRun) -> Backdoor:
        doors = self.doors(train, task, surrogate, run)
        return Backdoor(doors, self.rows(train, task, doors, run))


@dataclass(frozen=True)
class CleanLabelAttack(PoisoningAttack, ABC):
    """A poisoning attack on samples that truly are of the class it leads to, so that every label stays true.

    The k-th door stamps samples of the goal's k-th target class; doors that only tests use come after those.

    Args:
        rate: share of the target class, in [0, 1].
    """

    tags: ClassVar[frozenset[str]] = frozenset({"clean_label"})
    goals: ClassVar[tuple[type[Goal], ...]] = (AllToOne,)
    because: ClassVar[str] = "it poisons samples that truly are of the one class it leads to"

    @final
    def rows(self, train: Dataset, task: Task, doors: tuple[Door, ...], run: AttackerRun) -> Poison:
        labels = tuple(goal.target_class for goal in class_goals(self.goal))
        return select.of_class(train, doors, labels, self.rate, run.rng("poison"))


@dataclass(frozen=True)
class _ModelAttack(Attack, ABC):
    """An attack that delivers the model."""

    @abstractmethod
    def doors(self, train: Dataset, task: Task, surrogate: Build, run: AttackerRun) -> tuple[Door, ...]:
        """The triggers and their goals, before training; the arguments are those of `plan`."""

    @abstractmethod
    def train(self, doors: tuple[Door, ...], data: Dataset, task: Task, build: Build, run: AttackerRun) -> Planted:
        """The delivered model, and the doors with whatever their triggers learned.

        Args:
            doors: those of `doors`, to be left as they are: a trigger that learns is a copy.
            data: the victim's training data.
            build: builds the victim's network.
        """

    @final
    def plan(self, train: Dataset, task: Task, surrogate: Build, run: AttackerRun) -> Backdoor:
        doors = self.doors(train, task, surrogate, run)
        return Backdoor(doors, train=functools.partial(self.train, doors))


@dataclass(frozen=True)
class TrainingAttack(_ModelAttack, ABC):
    """A training-controlled attack: the attacker trains the model and delivers it."""

    access: ClassVar[Access] = Access.TRAINING


@dataclass(frozen=True)
class WeightAttack(_ModelAttack, ABC):
    """A weight-editing attack: the attacker changes a trained model (`run.clean_model`) and delivers it."""

    access: ClassVar[Access] = Access.WEIGHTS


def class_goals(goal: Goal) -> tuple[AllToOne, ...]:
    """The parts of a goal that lead all samples to one class each."""
    return tuple(part for part in goal.parts() if isinstance(part, AllToOne))


def surrogate_of(train: Dataset, task: Task, surrogate: Build, run: Run, objective: Objective | None = None) \
        -> nn.Module:
    """The network that a data-poisoning attacker trains privately, by the task's loss unless told otherwise."""
    return run.fit(run.build(surrogate), train, objective or Supervised(task), name="surrogate")


def in_corners(goal: Goal, pattern: Callable[[int], Float[Tensor, "c h w"]], margin: int = 0) -> tuple[Door, ...]:
    """A patch for each of the goal's targets: four have a corner each, the next four again, of another pattern.

    Args:
        pattern: of the patches that have the corners for the k-th time, k from 0; of another size each, so that
            patches of the same corner differ.
    """
    return tuple(Door(Patch(pattern(k // 4), CORNERS[k % 4], margin), part) for k, part in enumerate(goal.parts()))
