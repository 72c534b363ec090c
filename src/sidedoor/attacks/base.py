"""What every attack is: hyper-parameters, a declared threat model, and one verb."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.method import Method
from sidedoor.tasks.classification import Classification
from sidedoor.types import Access, Backdoor, Build, Goal, Task


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
