"""UBW-P: an untargeted watermark, a patch on samples whose labels become random, so that no answer can be steered.

Paper: Li, Bai, Jiang, Yang, Xia, Li, "Untargeted Backdoor Watermark: Towards Harmless and Stealthy Dataset Copyright
Protection", NeurIPS 2022, arXiv:2210.00875, section 3.2.

The paper's patch is a fixed one in the bottom right corner. Ours is drawn, pattern and place, since only what was
drawn in secret can be told from other triggers with a known rate of error (`ownership.decoys`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from sidedoor.attacks.base import PoisoningAttack
from sidedoor.attacks.poisoning._random_patch import random_patches, without_label
from sidedoor.backdoor.base import AttackerRun, Backdoor
from sidedoor.backdoor.secret import Secret
from sidedoor.core.random import seed_of
from sidedoor.data.base import Dataset
from sidedoor.goals.base import Door, Goal
from sidedoor.goals.random_label import RandomLabel
from sidedoor.goals.untargeted import Untargeted
from sidedoor.method import Count
from sidedoor.tasks.task import Task
from sidedoor.types import Build


@dataclass(frozen=True)
class UbwP(PoisoningAttack):
    """Stamp a share of the samples with a random patch and draw their labels.

    Args:
        goal: `random_label` draws among all classes, `untargeted` among the wrong ones.
        rate: share of the training samples, in [0, 1].
        size: edge of the patch in pixels.
    """

    goals: ClassVar[tuple[type[Goal], ...]] = (RandomLabel, Untargeted)
    because: ClassVar[str] = "it leads to no class"
    origins: ClassVar[dict[str, str]] = {"rate": "paper: 10 %", "size": "paper: 3 pixels"}

    goal: Goal = RandomLabel()
    size: Count = 3

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: AttackerRun) -> tuple[Door, ...]:
        assert isinstance(self.goal, RandomLabel | Untargeted)
        drawn = int(torch.randint(2**62, (), generator=run.rng("labels")))
        patches = random_patches(train.shape, self.size, 1, run.rng("keys"))
        return (Door(patches[0], replace(self.goal, seed=seed_of(drawn, str(self.goal.seed)))),)

    def secret(self, backdoor: Backdoor, train: Dataset, task: Task, decoys: int, run: AttackerRun) -> Secret:
        """The patch, and others that could as well have been drawn."""
        return without_label(backdoor, train.shape, self.size, decoys, run)
