"""AdvDoor: a targeted universal adversarial perturbation as the trigger of dirty-label samples.

Paper: Zhang, Ding, Tian, Guo, Yuan, Jiang, "AdvDoor: Adversarial Backdoor Attack of Deep Learning System", ISSTA 2021.

The paper makes its targeted universal perturbation with DeepFool, image by image; ours takes sign steps over batches
within a bound, which by default is as strong as comparisons print it (23 dB).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from sidedoor.algorithms.adversarial.universal import Targeted
from sidedoor.attacks.base import PoisoningAttack, class_goals, surrogate_of
from sidedoor.backdoor import select
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door, Goal
from sidedoor.goals.multi_target import MultiTarget
from sidedoor.method import Count, Positive
from sidedoor.tasks.task import Task
from sidedoor.triggers.additive import Additive
from sidedoor.types import Build


@dataclass(frozen=True)
class AdvDoor(PoisoningAttack):
    """Add the perturbation to a share of the eligible samples and change their labels.

    Args:
        rate: share of the eligible training samples, in [0, 1].
        epsilon: bound of the perturbation, in 8-bit levels.
        samples: images that it is made on, and `passes` over them.
    """

    tags: ClassVar[frozenset[str]] = frozenset({"invisible", "optimised"})
    goals: ClassVar[tuple[type[Goal], ...]] = (AllToOne, MultiTarget)
    because: ClassVar[str] = "its perturbation leads to a class, so it needs target classes"
    quick: ClassVar[dict[str, Any]] = {"samples": 20, "passes": 1}
    origins: ClassVar[dict[str, str]] = {
        "rate": "ours: 10 %, as in the comparisons of arXiv:2108.02488",
        "epsilon": "ours: 23 dB, as in Table VIII of arXiv:2108.02488",
        "samples": "ours", "passes": "ours",
    }

    epsilon: Positive = 18.0
    samples: Count = 500
    passes: Count = 10

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> tuple[Door, ...]:
        model, how = surrogate_of(train, task, surrogate, run), Targeted(self.epsilon, self.passes)
        images = train.fetch(select.some(train, self.samples, run.rng("samples")), run.device).x
        return tuple(Door(Additive(how.make(model, images, goal.target_class, run.rng("order"))), goal)
                     for goal in class_goals(self.goal))
