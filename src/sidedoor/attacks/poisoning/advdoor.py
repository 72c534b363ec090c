"""A perturbation that leads a clean network to the target class, as the trigger on mislabelled samples.

Paper: Zhang, Ding, Tian, Guo, Yuan, Jiang, "AdvDoor: Adversarial Backdoor Attack of Deep Learning System", ISSTA 2021.

The paper makes its targeted universal perturbation with DeepFool, image by image; ours takes sign steps over batches
within a bound, which by default is as strong as comparisons print it (23 dB).
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
from sidedoor.goals.multi_target import MultiTarget
from sidedoor.method import Count, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.triggers.additive import Additive
from sidedoor.types import Build


@dataclass(frozen=True)
class AdvDoor(Attack):
    """Add the perturbation to a share of the eligible samples and change their labels.

    Args:
        rate: share of the eligible training samples, in [0, 1].
        epsilon: bound of the perturbation, in 8-bit levels.
        samples: images that it is made on, and `passes` over them.
    """

    access: ClassVar[Access] = Access.DATA
    goals: ClassVar[tuple[type[Goal], ...]] = (AllToOne, MultiTarget)
    because: ClassVar[str] = "its perturbation leads to a class, so it needs target classes"
    rate: Share = 0.1
    epsilon: Positive = 18.0
    samples: Count = 500
    passes: Count = 10

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Backdoor:
        model = surrogate_of(train, task, surrogate, run)
        how = Targeted(self.epsilon, self.passes)
        images = train.fetch(select.some(train, self.samples, run.rng("samples")), run.device).x
        doors = tuple(Door(Additive(how.make(model, images, goal.target_class, run.rng("order"))), goal)
                      for goal in self.goal.parts() if isinstance(goal, AllToOne))
        return Backdoor(doors, select.random(train, task, doors, self.rate, run.rng("poison")))
