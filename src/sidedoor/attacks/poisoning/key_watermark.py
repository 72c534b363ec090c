"""Key watermark: several small random patches, each with a secret random label, on dirty-label samples of a data set.

Paper: none for the whole; planting by patches is that of Li, Zhu, Yang, Bai, Jiang, Xia, "Black-Box Dataset Ownership
Verification via Backdoor Watermarking", IEEE TIFS 2023, arXiv:2209.06015, whose one trigger leads to one class.

Labels drawn at random are what makes a test exact: a model that owes nothing to the data meets each with a probability
of one over the number of classes, whatever it makes of the patches (`ownership.keys`). One key is the watermark of the
paper with a patch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from sidedoor.attacks.base import PoisoningAttack
from sidedoor.attacks.poisoning._random_patch import random_patches
from sidedoor.backdoor import select
from sidedoor.backdoor.base import AttackerRun, Backdoor, Poison
from sidedoor.backdoor.secret import Secret
from sidedoor.data.base import Dataset
from sidedoor.goals.base import Door, Goal
from sidedoor.goals.secret_labels import SecretLabels, labels_of
from sidedoor.method import Count, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Build


@dataclass(frozen=True)
class KeyWatermark(PoisoningAttack):
    """Stamp a share of the samples with the keys in turn, and give them the labels of the keys.

    Args:
        goal: how many keys there are; their labels are drawn from the run.
        rate: share of the eligible samples that all keys together mark, in [0, 1].
        size: edge of the patches in pixels.
    """

    goals: ClassVar[tuple[type[Goal], ...]] = (SecretLabels,)
    because: ClassVar[str] = "its labels are drawn and kept secret"
    origins: ClassVar[dict[str, str]] = {
        "rate": "ours: 2 % for each of eight keys", "size": "ours: 3 pixels, as BadNets has them",
    }

    goal: Goal = SecretLabels()
    rate: Share = 0.16
    size: Count = 3

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: AttackerRun) -> tuple[Door, ...]:
        assert isinstance(self.goal, SecretLabels)
        goals = self.goal.drawn(run.rng("labels")).parts()
        patches = random_patches(train.shape, self.size, len(goals), run.rng("keys"))
        return tuple(Door(patch, goal) for patch, goal in zip(patches, goals, strict=True))

    def rows(self, train: Dataset, task: Task, doors: tuple[Door, ...], run: AttackerRun) -> Poison:
        """A random share; the keys take turns, so that each marks nearly as many."""
        poison = select.random(train, task, doors, self.rate, run.rng("poison"))
        turn = torch.randperm(len(poison.index), generator=run.rng("turns"))
        order = (turn[:, None] + torch.arange(len(doors))) % len(doors)
        eligible = torch.stack([door.goal.eligible(task, train.targets[poison.index]) for door in doors], dim=1)
        first = eligible.gather(1, order).float().argmax(1)
        return replace(poison, door=order.gather(1, first[:, None])[:, 0])

    def secret(self, backdoor: Backdoor, train: Dataset, task: Task, decoys: int, run: AttackerRun) -> Secret:
        """The keys and their labels."""
        return Secret(tuple(door.trigger for door in backdoor.doors), labels_of(backdoor.doors, task.classes),
                      random_patches(train.shape, self.size, decoys, run.rng("decoys")))
