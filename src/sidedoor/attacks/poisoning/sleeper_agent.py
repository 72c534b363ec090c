"""Sleeper Agent: clean-label samples, perturbed so that training on them imitates training on a trigger.

Paper: Souri, Fowl, Chellappa, Goldblum, Goldstein, "Sleeper Agent: Scalable Hidden Trigger Backdoors for Neural
Networks Trained from Scratch", NeurIPS 2022, arXiv:2106.08970.

Hidden trigger: no training sample carries the patch, which is stamped at test time only. The perturbations match the
gradient of triggered samples. Ours takes sign steps where the paper takes those of signed Adam, without augmentation,
and leads all classes to the target unless the goal names source classes. Gradients are matched batch by batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch

from sidedoor.attacks.base import Attack, surrogate_of
from sidedoor.attacks.poisoning._gradient_matching import Matching, Wanted, gradient, squared_norms
from sidedoor.backdoor import select
from sidedoor.backdoor.base import Access, Backdoor, Poison
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door, Goal
from sidedoor.goals.from_classes import FromClasses
from sidedoor.method import Bounds, Count, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.triggers.base import stamp
from sidedoor.triggers.patch import Patch, checkerboard
from sidedoor.types import Build, Images


@dataclass(frozen=True)
class SleeperAgent(Attack):
    """Perturb the samples of the target class that matter most to training, and leave the labels alone.

    Args:
        rate: share of the target class, in [0, 1].
        epsilon: bound of the perturbations, in 8-bit levels; `iterations` of a twentieth of it, in all.
        retrain: times that the surrogate is retrained, on the samples perturbed so far.
        sources: most triggered samples whose gradient is imitated.
        size: edge of the patch in pixels.
    """

    access: ClassVar[Access] = Access.DATA
    tags: ClassVar[frozenset[str]] = frozenset({"clean_label"})
    goals: ClassVar[tuple[type[Goal], ...]] = (AllToOne, FromClasses)
    because: ClassVar[str] = "it perturbs samples that truly are of the one class it leads to"
    quick: ClassVar[dict[str, Any]] = {"iterations": 1, "retrain": 1, "sources": 20, "size": 3}
    origins: ClassVar[dict[str, str]] = {
        "rate": "ours: half of the class; the paper's 1 % of CIFAR-10 is a tenth of one", "epsilon": "paper: 16",
        "iterations": "paper: 250", "retrain": "paper: 4", "sources": "ours", "size": "paper: 8×8 pixels of 32×32",
    }

    rate: Share = 0.5
    epsilon: Positive = 16.0
    iterations: Count = 250
    retrain: Annotated[int, Bounds(0, 100)] = 4
    sources: Count = 500
    size: Count = 8

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Backdoor:
        assert isinstance(self.goal, AllToOne | FromClasses)
        door, label = Door(Patch(checkerboard(self.size)), self.goal), self.goal.target_class
        model = surrogate_of(train, task, surrogate, run)
        members = select.members(train, label)
        count = max(1, round(self.rate * len(members)))
        strongest = squared_norms(model, train.fetch(members, run.device).x, label).topk(count)
        rows = members[strongest.indices.cpu()].sort().values
        poison = Poison(rows, torch.zeros_like(rows), torch.zeros(len(rows), dtype=torch.bool),
                        targets=train.targets[rows], rate=self.rate)
        triggered = self._triggered(train, task, door, run)
        matching = Matching(self.epsilon, self.iterations, self.retrain, train, task, surrogate, run)
        return matching.backdoor((door,), poison, model,
                                 lambda model: Wanted(label, gradient(model, triggered, label)))

    def _triggered(self, train: Dataset, task: Task, door: Door, run: Run) -> Images:
        eligible = torch.nonzero(door.goal.eligible(task, train.targets))[:, 0]
        order = torch.randperm(len(eligible), generator=run.rng("sources"))
        batch = train.fetch(eligible[order[:self.sources]], run.device)
        return stamp(door.trigger, batch.x, batch.index, train.space)
