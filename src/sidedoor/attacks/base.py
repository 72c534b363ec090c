"""What every attack is: hyper-parameters, a declared threat model, one verb; and how who trains mixes a batch."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from sidedoor import registry
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.data.base import Dataset
from sidedoor.engine import Objective, Player, Run, Supervised
from sidedoor.errors import ConfigError
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.method import Method
from sidedoor.multitask.base import Weighting
from sidedoor.tasks.classification import Classification
from sidedoor.types import Access, Backdoor, Batch, Build, Door, Goal, Planted, Space, Task, Trigger, joined, stamp


@dataclass(frozen=True)
class Attack(Method, ABC):
    """An attack under a declared threat model.

    Attributes:
        access: what the attacker can touch.
        tasks: the kinds of task that it attacks.
        goals: the kinds of goal that make sense for it, and `because`, why the others do not.

    Args:
        goal: what a triggered input shall lead to.

    Raises:
        ConfigError: a goal that makes no sense for this attack, with the reason.
    """

    access: ClassVar[Access]
    tasks: ClassVar[tuple[type[Task], ...]] = (Classification,)
    goals: ClassVar[tuple[type[Goal], ...]] = (Goal,)
    because: ClassVar[str] = ""

    goal: Goal = AllToOne(0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.goal, self.goals):
            allowed = ", ".join(goal.__name__ for goal in self.goals)
            raise ConfigError(f"{type(self).__name__} cannot pursue {self.goal}: {self.because}; it takes {allowed}")
        if self.goal.network not in {task.network for task in self.tasks}:
            raise ConfigError(f"{type(self).__name__} cannot pursue {self.goal}, whose targets are no targets of "
                              f"{' or '.join(task.__name__ for task in self.tasks)}")

    @abstractmethod
    def plan(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Backdoor:
        """Decide the doors, the poisoned rows, and (for who controls the training) how the model is trained.

        Args:
            train: the victim's training data, with its labels.
            surrogate: builds a network to derive the trigger from, if the attack needs one. It is the victim's own
                architecture for an attacker who trains or edits weights.
        """


def _usual() -> Attack:
    usual: Attack = registry.make("attack", "badnets")
    return usual


@dataclass(frozen=True)
class Trainer(Attack, ABC):
    """Poison as another attack does, and train on it in a way of one's own.

    Args:
        attack: an attack on data; its goal is the one given here.

    Raises:
        ConfigError: an attack that trains by itself, or that has another goal.
    """

    access: ClassVar[Access] = Access.TRAINING
    attack: Attack = field(default_factory=_usual)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._poisoner()

    def _poisoner(self) -> Attack:
        """The attack on data, with the goal of the whole."""
        name = type(self.attack).__name__
        if self.attack.access is not Access.DATA:
            raise ConfigError(f"{name} given as `attack`; expected one that poisons data and leaves training to others")
        if self.attack.goal not in (type(self.attack).goal, self.goal):
            raise ConfigError(f"{name} with the goal {self.attack.goal} given within {type(self).__name__}; "
                              "say the goal of the latter instead")
        return replace(self.attack, goal=self.goal)

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Backdoor:
        backdoor = self._poisoner().plan(train, task, surrogate, run)
        return replace(backdoor, train=functools.partial(self._planted, backdoor))

    def _planted(self, backdoor: Backdoor, data: Dataset, task: Task, build: Build, run: Run) -> Planted:
        return Planted(self.trained(PoisonedDataset(data, backdoor, task), data, task, build, run), backdoor.doors)

    @abstractmethod
    def trained(self, poisoned: PoisonedDataset, data: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        """The victim.

        Args:
            poisoned: the training data as the other attack leaves them, and `data`, as they were.
        """


def surrogate_of(train: Dataset, task: Task, surrogate: Build, run: Run, objective: Objective | None = None) \
        -> nn.Module:
    """The network that an attacker on data trains for himself, by the task's loss unless another objective is given."""
    return run.fit(run.build(surrogate), train, objective or Supervised(task), name="surrogate")


def check_shares(**shares: float) -> None:
    """Two shares of one batch.

    Raises:
        ConfigError: they add up to more than 1.
    """
    if sum(shares.values()) > 1:
        given = " and ".join(f"{name} {share}" for name, share in shares.items())
        raise ConfigError(f"{given} given; expected at most 1 together")


class Decoys(NamedTuple):
    """Samples that keep their labels although something like the trigger was put into them.

    Args:
        rate: share of all samples.
        make: (model, door, batch, mask of the batch) -> what is stamped on the rows of the mask.
    """

    rate: float
    make: Callable[[nn.Module, Door, Batch, Tensor], Trigger]


class Mixed(Objective):
    """The task's loss on batches of attacked samples, decoys and clean ones; several doors share the samples out.

    Args:
        rate: share of the eligible samples that is attacked.
    """

    def __init__(self, task: Task, doors: tuple[Door, ...], space: Space, rate: float, decoys: Decoys | None = None):
        super().__init__()
        self.task, self.doors, self.space, self.rate, self.decoys = task, doors, space, rate, decoys
        self.triggers = nn.ModuleList(door.trigger for door in doors)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.task.loss(model, self.mixed(model, batch)).mean()[None]

    def mixed(self, model: nn.Module, batch: Batch) -> Batch:
        """A batch as it is trained on."""
        x, y = batch.x.clone(), batch.y.clone()
        draw = torch.rand(len(y), device=y.device)
        chosen = torch.randint(len(self.doors), (len(y),), device=y.device)
        for k, door in enumerate(self.doors):
            attacked = (chosen == k) & (draw < self.rate) & door.goal.eligible(self.task, batch.y)
            x[attacked] = stamp(door.trigger, batch.x[attacked], batch.index[attacked], self.space)
            y[attacked] = door.goal.target(self.task, batch.y[attacked], batch.index[attacked])
            if self.decoys:
                rows = (chosen == k) & (draw > 1 - self.decoys.rate)
                decoy = self.decoys.make(model, door, batch, rows)
                x[rows] = stamp(decoy, batch.x[rows], batch.index[rows], self.space)
        return Batch(x, y, batch.index)


class Twice(Objective):
    """Two losses of the task: on a batch as it is, and as somebody mixes it.

    Both go through the network together: apart, batch normalisation would tell them apart by their statistics.
    """

    def __init__(self, mixer: Mixed, weighting: Weighting, party: Player | None = None):
        super().__init__(weighting.start(2))
        self.mixer, self.party = mixer, party

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        both = joined(batch, self.mixer.mixed(model, batch))
        return self.mixer.task.loss(model, both).reshape(2, -1).mean(1)

    def players(self, model: nn.Module) -> list[Player]:
        return [self.party] if self.party else []
