"""Clean-label strategy: the trigger of any data-poisoning attack, on samples of the target class, labels left alone.

Paper: Turner, Tsipras, Madry, "Label-Consistent Backdoor Attacks", 2019, arXiv:1912.02771, which tries this first, with
the patch of BadNets, and finds that it hardly works: the samples are learned without the trigger.

It is the control of clean-label attacks, which differ from it by what they do besides, or by their trigger.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sidedoor.attacks.base import class_goals
from sidedoor.attacks.strategies.base import Strategy
from sidedoor.backdoor import select
from sidedoor.backdoor.base import Access, AttackerRun, Backdoor
from sidedoor.data.base import Dataset
from sidedoor.errors import ConfigError
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Goal
from sidedoor.method import Share
from sidedoor.tasks.task import Task
from sidedoor.types import Build


@dataclass(frozen=True)
class CleanLabel(Strategy):
    """Stamp a share of the target class with the trigger of another attack.

    Args:
        attack: whose trigger is taken; which rows it would poison makes no difference.
        rate: share of the target class, in [0, 1].

    Raises:
        ConfigError: an attack that makes its poisoned images itself, rather than by its trigger.
    """

    access: ClassVar[Access] = Access.DATA
    tags: ClassVar[frozenset[str]] = frozenset({"clean_label"})
    goals: ClassVar[tuple[type[Goal], ...]] = (AllToOne,)
    because: ClassVar[str] = "it stamps samples that truly are of the one class it leads to"
    origins: ClassVar[dict[str, str]] = Strategy.origins | {"rate": "ours: as BAAT, which it is compared with"}

    rate: Share = 0.8

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: AttackerRun) -> Backdoor:
        backdoor = self._poisoner().plan(train, task, surrogate, run)
        if backdoor.poison.images is not None:
            raise ConfigError(f"{type(self.attack).__name__} given within CleanLabel; it makes its poisoned images "
                              "itself: give one that stamps a trigger")
        labels = tuple(goal.target_class for goal in class_goals(self.goal))
        poison = select.of_class(train, backdoor.doors, labels, self.rate, run.rng("poison"))
        return replace(backdoor, poison=poison)
