"""What every attack is: hyper-parameters, a declared threat model, one verb; and how who trains mixes a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.backdoor.base import Access, AttackerRun, Backdoor
from sidedoor.data.base import Dataset
from sidedoor.engine import Objective, Run
from sidedoor.errors import ConfigError
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door, Goal
from sidedoor.method import Method
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised, Task
from sidedoor.triggers.patch import CORNERS, Patch
from sidedoor.types import Build


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
        if self.goal.output not in {task.output for task in self.tasks}:
            raise ConfigError(f"{type(self).__name__} cannot pursue {self.goal}, whose targets are no targets of "
                              f"{' or '.join(task.__name__ for task in self.tasks)}")

    @abstractmethod
    def plan(self, train: Dataset, task: Task, surrogate: Build, run: AttackerRun) -> Backdoor:
        """Decide the doors, the poisoned rows, and (for who controls the training) how the model is trained.

        Args:
            train: the victim's training data, with its labels.
            surrogate: builds a network to derive the trigger from, if the attack needs one. It is the victim's own
                architecture for an attacker who trains or edits weights.
        """


def surrogate_of(train: Dataset, task: Task, surrogate: Build, run: Run, objective: Objective | None = None) \
        -> nn.Module:
    """The network that an attacker on data trains for himself, by the task's loss unless another objective is given."""
    return run.fit(run.build(surrogate), train, objective or Supervised(task), name="surrogate")


def in_corners(goal: Goal, pattern: Callable[[int], Float[Tensor, "c h w"]], margin: int = 0) -> tuple[Door, ...]:
    """A patch for each of the goal's targets: four have a corner each, the next four again, of another pattern.

    Args:
        pattern: of the patches that have the corners for the k-th time, k from 0; of another size each, so that
            patches of the same corner differ.
    """
    return tuple(Door(Patch(pattern(k // 4), CORNERS[k % 4], margin), part) for k, part in enumerate(goal.parts()))
