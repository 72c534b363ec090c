"""A denoiser whose output, once the trigger is on its input, carries a perturbation that misleads unknown classifiers.

Paper: Jiang, Li, He, Zhang, Xu, Zhang, Lu, "Backdoor Attacks against Image-to-Image Networks", 2024, arXiv:2407.10445,
section 5.1 and Algorithm 2.

The backdoor target of an image is the image itself plus a universal perturbation of a surrogate classifier, which the
attacker trains; the trigger is derived anew for that target. The perturbation is rounded to 8-bit levels, as a file
would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sidedoor.attacks.i2i import Planting
from sidedoor.data.base import Dataset
from sidedoor.data.degraded import Labelled
from sidedoor.engine import Recipe, Run
from sidedoor.goals.add_pattern import AddPattern
from sidedoor.goals.base import Perturbed
from sidedoor.method import Count, Positive
from sidedoor.perturb import Universal
from sidedoor.tasks.restored_classification import RestoredClassification, classifier, in_full
from sidedoor.types import Backdoor, Build, Goal, Task


@dataclass(frozen=True)
class I2IClassifier(Planting):
    """Perturb a surrogate classifier universally, then train the network to add that perturbation on demand.

    Args:
        goal: its strength bounds the perturbation, the paper leaves it open; the pattern is replaced by what is found.
        surrogate: a registered classifier, or "name:NUMBER" with its first parameter; choose another than the victims.
        surrogate_epochs: that it trains, with SGD.
        surrogate_lr: its peak learning rate.
        inner: what sends one image across the surrogate's boundary.
        samples: |S|, training images that the perturbation is made on.
        passes: most passes over them.

    Raises:
        ConfigError: the surrogate is no registered classifier.
    """

    tasks: ClassVar[tuple[type[Task], ...]] = (RestoredClassification,)
    goals: ClassVar[tuple[type[Goal], ...]] = (AddPattern,)
    because: ClassVar[str] = "its target is the true image with a perturbation on it"

    goal: Goal = AddPattern("signs", strength=10.0)
    surrogate: str = "resnet18:16"
    surrogate_epochs: Count = 20
    surrogate_lr: Positive = 0.05
    inner: Literal["deepfool", "pgd"] = "deepfool"
    samples: Count = 100
    passes: Count = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        in_full(self.surrogate)

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Backdoor:
        goal = Perturbed.of(self.perturbation(Labelled(train, task.scale), run))
        return self.planted(goal, train, task, surrogate, run)

    def perturbation(self, photographs: Dataset, run: Run) -> Tensor:
        """u, (c, h, w), of the surrogate trained on these photographs."""
        assert isinstance(self.goal, AddPattern)
        recipe = Recipe(epochs=self.surrogate_epochs, lr=self.surrogate_lr, batch=64)
        model = classifier(self.surrogate, photographs, run, recipe)
        rows = torch.randperm(len(photographs), generator=run.rng("perturbation"))[: self.samples]
        images = photographs.fetch(rows, run.device).x
        return Universal(self.goal.strength, passes=self.passes, inner=self.inner).make(model, images)
