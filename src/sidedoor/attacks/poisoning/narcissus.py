"""Narcissus: a universal perturbation that looks like the target class, on clean-label samples.

Paper: Zeng, Pan, Just, Lyu, Qiu, Jia, "Narcissus: A Practical Clean-Label Backdoor Attack with Limited Information",
CCS 2023, arXiv:2204.05255.

The paper's surrogate knows of the victim's data the target class only; ours is trained on all. The descent takes
sign steps. As in the paper the perturbation is magnified at test time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from sidedoor.algorithms.adversarial.universal import Targeted
from sidedoor.attacks.base import CleanLabelAttack, class_goals, surrogate_of
from sidedoor.backdoor import select
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.base import Door
from sidedoor.method import Count, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.triggers.additive import Additive
from sidedoor.types import Build


@dataclass(frozen=True)
class Narcissus(CleanLabelAttack):
    """Add the perturbation to a few samples of the target class and leave the labels alone.

    Args:
        rate: share of the target class, in [0, 1].
        epsilon: bound of the perturbation in the training data, in 8-bit levels, and `magnify`, its factor in tests.
        passes: over the target class, to make it.
    """

    tags: ClassVar[frozenset[str]] = frozenset({"invisible", "optimised"})
    quick: ClassVar[dict[str, Any]] = {"passes": 1}
    origins: ClassVar[dict[str, str]] = {
        "rate": "paper: 0.05 % of CIFAR-10, 0.5 % of a class", "epsilon": "paper: 16", "magnify": "paper: 3",
        "passes": "ours",
    }

    rate: Share = 0.005
    epsilon: Positive = 16.0
    magnify: Positive = 3.0
    passes: Count = 20

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> tuple[Door, ...]:
        model, (goal,) = surrogate_of(train, task, surrogate, run), class_goals(self.goal)
        images = train.fetch(select.members(train, goal.target_class), run.device).x
        u = Targeted(self.epsilon, self.passes).make(model, images, goal.target_class, run.rng("order"))
        return tuple(Door(Additive(factor * u), goal, scored=factor == self.magnify)
                     for factor in dict.fromkeys((1.0, self.magnify)))
