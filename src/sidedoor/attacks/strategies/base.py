"""Training strategies around an attack that poisons data."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import nn

from sidedoor import registry
from sidedoor.attacks.base import Attack
from sidedoor.backdoor.base import Access, AttackerRun, Backdoor, Planted
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.data.base import Dataset
from sidedoor.errors import ConfigError
from sidedoor.tasks.task import Task
from sidedoor.types import Build


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

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: AttackerRun) -> Backdoor:
        backdoor = self._poisoner().plan(train, task, surrogate, run)
        return replace(backdoor, train=functools.partial(self._planted, backdoor))

    def _planted(self, backdoor: Backdoor, data: Dataset, task: Task, build: Build, run: AttackerRun) -> Planted:
        return Planted(self.trained(PoisonedDataset(data, backdoor, task), data, task, build, run), backdoor.doors)

    @abstractmethod
    def trained(self, poisoned: PoisonedDataset, data: Dataset, task: Task, build: Build,
                run: AttackerRun) -> nn.Module:
        """The victim.

        Args:
            poisoned: the training data as the other attack leaves them, and `data`, as they were.
        """
