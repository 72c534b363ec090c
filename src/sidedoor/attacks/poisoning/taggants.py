"""Data taggants: a clean-label watermark, perturbed so that training on it teaches secret labels of random key images.

Paper: Bouaziz, Usunier, El-Mhamdi, "Data Taggants: Dataset Ownership Verification via Harmless Targeted Data
Poisoning", ICLR 2025, arXiv:2410.09101.

Keys are images of uniform noise, far from the data, so that nothing changes for real inputs; the test is `keys`. Ours
perturbs a random share of all classes by plain sign steps without augmentation, as `sleeper_agent` does, and matches
the mean gradient of all keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from sidedoor.attacks.base import Attack, surrogate_of
from sidedoor.attacks.poisoning._gradient_matching import Matching, Wanted, gradient
from sidedoor.backdoor import select
from sidedoor.backdoor.base import Access, AttackerRun, Backdoor
from sidedoor.backdoor.secret import Secret
from sidedoor.data.base import Dataset
from sidedoor.goals.base import Door, Goal
from sidedoor.goals.secret_labels import SecretLabels, labels_of
from sidedoor.method import Bounds, Count, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.triggers.patch import Patch
from sidedoor.types import Build


@dataclass(frozen=True)
class Taggants(Attack):
    """Perturb a share of the samples, of all classes, and leave the labels alone; a key replaces the whole image.

    Args:
        goal: how many keys there are; their labels are drawn from the run.
        rate: share of the eligible samples, in [0, 1].
        epsilon: bound of the perturbations, in 8-bit levels; `iterations` of a twentieth of it, in all.
        retrain: times that the surrogate is retrained, on the samples perturbed so far.
    """

    access: ClassVar[Access] = Access.DATA
    tags: ClassVar[frozenset[str]] = frozenset({"clean_label"})
    goals: ClassVar[tuple[type[Goal], ...]] = (SecretLabels,)
    because: ClassVar[str] = "its labels are drawn and kept secret"
    quick: ClassVar[dict[str, Any]] = {"iterations": 1, "retrain": 1}
    origins: ClassVar[dict[str, str]] = {
        "rate": "ours: as `ubw_c`", "epsilon": "paper: 16", "iterations": "ours: as `sleeper_agent`",
        "retrain": "ours: as `sleeper_agent`",
    }

    goal: Goal = SecretLabels()
    rate: Share = 0.1
    epsilon: Positive = 16.0
    iterations: Count = 250
    retrain: Annotated[int, Bounds(0, 100)] = 4

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: AttackerRun) -> Backdoor:
        assert isinstance(self.goal, SecretLabels)
        goals = self.goal.drawn(run.rng("labels")).parts()
        keys = _noise(len(goals), train, run.rng("keys"))
        doors = tuple(Door(Patch(key, place=(0, 0)), goal) for key, goal in zip(keys, goals, strict=True))
        poison = select.random(train, task, doors, self.rate, run.rng("poison"))
        poison.targets = train.targets[poison.index]
        x, y = keys.to(run.device), torch.tensor(labels_of(doors, task.classes), device=run.device)
        own, model = poison.targets.to(run.device), surrogate_of(train, task, surrogate, run)
        matching = Matching(self.epsilon, self.iterations, self.retrain, train, task, surrogate, run)
        return matching.backdoor(doors, poison, model, lambda model: Wanted(own, gradient(model, x, y)))

    def secret(self, backdoor: Backdoor, train: Dataset, task: Task, decoys: int, run: AttackerRun) -> Secret:
        """The key images and their labels."""
        others = tuple(Patch(image, place=(0, 0)) for image in _noise(decoys, train, run.rng("decoys")))
        return Secret(tuple(door.trigger for door in backdoor.doors), labels_of(backdoor.doors, task.classes), others)


def _noise(count: int, train: Dataset, rng: torch.Generator) -> Tensor:
    """Images of uniform noise in 8-bit levels, (count, c, h, w) in [0, 1]."""
    return torch.randint(256, (count, *train.shape), generator=rng).float() / 255
