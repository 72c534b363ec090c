"""LF: a smooth, low-frequency universal perturbation as the trigger of dirty-label samples.

Paper: Zeng, Park, Mao, Jia, "Rethinking the Backdoor Attacks' Triggers: A Frequency Perspective", ICCV 2021,
arXiv:2104.03413.

After every step of DeepFool the perturbation passes a Gaussian and is scaled to its range. The paper's target is the
class that most images happen to be led to; ours is the goal's.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

from sidedoor.algorithms.adversarial.universal import Universal, smooth
from sidedoor.attacks.base import PoisoningAttack, class_goals, surrogate_of
from sidedoor.backdoor import select
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
class LF(PoisoningAttack):
    """Add the perturbation to a share of the eligible samples and change their labels.

    Args:
        rate: share of the eligible samples, in [0, 1].
        strength: range of the perturbation, whose least value is 0, in units of the pixel range.
        sigma: of the Gaussian, in pixels.
        samples: images that it is made on, until a share `enough` of them is led to the class.
    """

    tags: ClassVar[frozenset[str]] = frozenset({"optimised"})
    goals: ClassVar[tuple[type[Goal], ...]] = (AllToOne, MultiTarget)
    because: ClassVar[str] = "its perturbation leads to a class, so it needs target classes"
    quick: ClassVar[dict[str, Any]] = {"samples": 10, "enough": 0.0}
    origins: ClassVar[dict[str, str]] = {
        "rate": "ours: 10 %, as in the comparisons of arXiv:2108.02488", "strength": "ours", "sigma": "ours",
        "samples": "ours", "enough": "ours: few images follow a perturbation as smooth as this",
    }

    strength: Positive = 0.2
    sigma: Positive = 6.0
    samples: Count = 100
    enough: Share = 0.2

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> tuple[Door, ...]:
        model, how = surrogate_of(train, task, surrogate, run), Universal(enough=self.enough)
        images = train.fetch(select.some(train, self.samples, run.rng("samples")), run.device).x
        shaped = functools.partial(smooth, sigma=self.sigma, span=self.strength)
        return tuple(Door(Additive(how.towards(model, images, goal.target_class, shaped)), goal)
                     for goal in class_goals(self.goal))
