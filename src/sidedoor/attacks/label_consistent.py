"""A corner patch on samples of the target class that were first made hard to recognise, whose labels stay true.

Paper: Turner, Tsipras, Madry, "Label-Consistent Backdoor Attacks", 2019, arXiv:1912.02771 (its adversarial variant).

The perturbation is PGD's on a network trained on the same data; the paper's is trained robustly, and its patch is
fainter and in all four corners.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from sidedoor.attacks.base import Attack, surrogate_of
from sidedoor.data import select
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.method import Count, Positive, Share
from sidedoor.perturb import Steps, perturbed
from sidedoor.triggers.patch import Patch, checkerboard
from sidedoor.types import Access, Backdoor, Build, Door, Goal, Task


@dataclass(frozen=True)
class LabelConsistent(Attack):
    """Perturb and stamp a share of the target class, and leave the labels alone.

    Args:
        rate: share of the target class, in [0, 1].
        epsilon: bound of the perturbation, in 8-bit levels; `iterations` of a tenth of it each.
        size: edge of the patch in pixels.
    """

    access: ClassVar[Access] = Access.DATA
    goals: ClassVar[tuple[type[Goal], ...]] = (AllToOne,)
    because: ClassVar[str] = "it stamps samples that truly are of the one class it leads to"
    rate: Share = 0.5
    epsilon: Positive = 16.0
    iterations: Count = 30
    size: Count = 3

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Backdoor:
        assert isinstance(self.goal, AllToOne)
        doors = (Door(Patch(checkerboard(self.size)), self.goal),)
        poison = select.of_class(train, doors, (self.goal.target_class,), self.rate, run.rng("poison"))
        model = surrogate_of(train, task, surrogate, run)
        how = Steps(self.epsilon / 255, self.epsilon / 2550, self.iterations)
        return Backdoor(doors, replace(poison, images=perturbed(model, train, poison.index, how, doors[0].trigger)))
