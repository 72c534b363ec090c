"""A perturbation that looks like the target class to a network, on samples of that class, whose labels stay true.

Paper: Zeng, Pan, Just, Lyu, Qiu, Jia, "Narcissus: A Practical Clean-Label Backdoor Attack with Limited Information",
CCS 2023, arXiv:2204.05255.

The paper's surrogate knows of the victim's data the target class only; ours is trained on all. The descent takes
sign steps. As in the paper the perturbation is magnified at test time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sidedoor.algorithms.adversarial.universal import Targeted
from sidedoor.attacks.base import Attack, surrogate_of
from sidedoor.backdoor import select
from sidedoor.backdoor.base import Access, Backdoor
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door, Goal
from sidedoor.method import Count, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.triggers.additive import Additive
from sidedoor.types import Build


@dataclass(frozen=True)
class Narcissus(Attack):
    """Add the perturbation to a few samples of the target class and leave the labels alone.

    Args:
        rate: share of the target class, in [0, 1].
        epsilon: bound of the perturbation in the training data, in 8-bit levels, and `magnify`, its factor in tests.
        passes: over the target class, to make it.
    """

    access: ClassVar[Access] = Access.DATA
    goals: ClassVar[tuple[type[Goal], ...]] = (AllToOne,)
    because: ClassVar[str] = "it stamps samples that truly are of the one class it leads to"
    rate: Share = 0.005
    epsilon: Positive = 16.0
    magnify: Positive = 3.0
    passes: Count = 20

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Backdoor:
        assert isinstance(self.goal, AllToOne)
        model, label = surrogate_of(train, task, surrogate, run), self.goal.target_class
        images = train.fetch(select.members(train, label), run.device).x
        u = Targeted(self.epsilon, self.passes).make(model, images, label, run.rng("order"))
        doors = tuple(Door(Additive(factor * u), self.goal, scored=factor == self.magnify)
                      for factor in dict.fromkeys((1.0, self.magnify)))
        return Backdoor(doors, select.of_class(train, doors, (label,), self.rate, run.rng("poison")))
