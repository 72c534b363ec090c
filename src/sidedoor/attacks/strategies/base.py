"""What strategies share: the poisoned data of another attack, and what they make of them or how they train on them."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, final

from torch import nn

from sidedoor import registry
from sidedoor.attacks.base import Attack
from sidedoor.backdoor.base import Access, AttackerRun, Backdoor, Planted
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.data.base import Dataset
from sidedoor.errors import ConfigError
from sidedoor.tasks.task import Task
from sidedoor.types import Build


def _badnets() -> Attack:
    attack: Attack = registry.make("attack", "badnets")
    return attack


@dataclass(frozen=True)
class Strategy(Attack, ABC):
    """An attack around the data that another attack poisons.

    Args:
        attack: a data-poisoning attack; its goal is the one given here.

    Raises:
        ConfigError: an attack that controls the training itself, or that has another goal.
    """

    origins: ClassVar[dict[str, str]] = {"attack": "ours: BadNets, the plainest"}

    attack: Attack = field(default_factory=_badnets)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._poisoner()

    def on_shelf(self, seed: int) -> Any:
        return self._poisoner().on_shelf(seed)

    def _poisoner(self) -> Attack:
        """The data-poisoning attack, with the goal of the whole."""
        name = type(self.attack).__name__
        if self.attack.access is not Access.DATA:
            raise ConfigError(f"{name} given as `attack`; expected one that poisons data and leaves training to others")
        if self.attack.goal not in (type(self.attack).goal, self.goal):
            raise ConfigError(f"{name} with the goal {self.attack.goal} given within {type(self).__name__}; "
                              "say the goal of the latter instead")
        return replace(self.attack, goal=self.goal)


@dataclass(frozen=True)
class TrainingStrategy(Strategy, ABC):
    """A way of training the model on the data that another attack poisons."""

    access: ClassVar[Access] = Access.TRAINING

    @final
    def plan(self, train: Dataset, task: Task, surrogate: Build, run: AttackerRun) -> Backdoor:
        backdoor = self._poisoner().plan(train, task, surrogate, run)
        return replace(backdoor, train=functools.partial(self._plant, backdoor))

    def _plant(self, backdoor: Backdoor, data: Dataset, task: Task, build: Build, run: AttackerRun) -> Planted:
        poisoned = PoisonedDataset(data, backdoor, task)
        return Planted(self.train_on(poisoned, data, task, build, run), backdoor.doors)

    @abstractmethod
    def train_on(self, poisoned: PoisonedDataset, data: Dataset, task: Task, build: Build,
                 run: AttackerRun) -> nn.Module:
        """The trained model.

        Args:
            poisoned: the training data with the poison of the other attack.
            data: the training data before poisoning.
        """
