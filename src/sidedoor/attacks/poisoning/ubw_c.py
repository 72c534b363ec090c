"""UBW-C: an untargeted clean-label watermark, perturbed so that training on it makes answers to a patch random.

Paper: Li, Bai, Jiang, Yang, Xia, Li, "Untargeted Backdoor Watermark: Towards Harmless and Stealthy Dataset Copyright
Protection", NeurIPS 2022, arXiv:2210.00875, section 3.3.

Hidden trigger and true labels: the perturbations match the gradient that makes stamped samples of all classes wrong and
uncertain. Ours takes plain sign steps without augmentation, as `sleeper_agent` does, and draws the patch, pattern and
place, where the paper's is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from sidedoor.attacks.base import Attack, surrogate_of
from sidedoor.attacks.poisoning._gradient_matching import Matching, Wanted, gradient, squared_norms
from sidedoor.attacks.poisoning._random_patch import random_patch, without_label
from sidedoor.backdoor import select
from sidedoor.backdoor.base import Access, AttackerRun, Backdoor, Poison
from sidedoor.backdoor.secret import Secret
from sidedoor.data.base import Dataset
from sidedoor.goals.base import Door, Goal
from sidedoor.goals.untargeted import Untargeted
from sidedoor.method import Bounds, Count, NonNegative, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.triggers.base import stamp
from sidedoor.types import Build


@dataclass(frozen=True)
class UbwC(Attack):
    """Perturb the samples that matter most to training, of all classes, and leave the labels alone.

    Args:
        rate: share of the training samples, in [0, 1].
        epsilon: bound of the perturbations, in 8-bit levels; `iterations` of a twentieth of it, in all.
        retrain: times that the surrogate is retrained, on the samples perturbed so far.
        uncertainty: weight of the entropy of answers beside their cross-entropy.
        sources: most stamped samples whose gradient is imitated.
        size: edge of the patch in pixels.
    """

    access: ClassVar[Access] = Access.DATA
    tags: ClassVar[frozenset[str]] = frozenset({"clean_label"})
    goals: ClassVar[tuple[type[Goal], ...]] = (Untargeted,)
    because: ClassVar[str] = "it leads to no class, and leaves the labels alone"
    quick: ClassVar[dict[str, Any]] = {"iterations": 1, "retrain": 1, "sources": 20, "size": 3}
    origins: ClassVar[dict[str, str]] = {
        "rate": "paper: 10 %", "epsilon": "paper: 16", "iterations": "release: 250", "retrain": "release: 4",
        "uncertainty": "release: 2", "sources": "ours", "size": "release: 8 pixels of 64",
    }

    goal: Goal = Untargeted()
    rate: Share = 0.1
    epsilon: Positive = 16.0
    iterations: Count = 250
    retrain: Annotated[int, Bounds(0, 100)] = 4
    uncertainty: NonNegative = 2.0
    sources: Count = 500
    size: Count = 8

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: AttackerRun) -> Backdoor:
        door = Door(random_patch(train.shape, self.size, run.rng("keys")), self.goal)
        model = surrogate_of(train, task, surrogate, run)
        rows = self._strongest(model, train, run)
        targets = train.targets[rows]
        poison = Poison(rows, torch.zeros_like(rows), torch.zeros(len(rows), dtype=torch.bool), targets=targets,
                        rate=self.rate)
        asked = train.fetch(select.some(train, self.sources, run.rng("sources")), run.device)
        x, y = stamp(door.trigger, asked.x, asked.index, train.space), targets.to(run.device)
        matching = Matching(self.epsilon, self.iterations, self.retrain, train, task, surrogate, run)
        return matching.backdoor((door,), poison, model,
                                 lambda model: Wanted(y, gradient(model, x, asked.y, self._loss)))

    def secret(self, backdoor: Backdoor, train: Dataset, task: Task, decoys: int, run: AttackerRun) -> Secret:
        """The patch, and others that could as well have been drawn."""
        return without_label(backdoor, train.shape, self.size, decoys, run)

    def _strongest(self, model: torch.nn.Module, train: Dataset, run: AttackerRun) -> Tensor:
        """The rows of the largest gradients, ascending."""
        every = torch.arange(len(train))
        norms = torch.cat([squared_norms(model, batch.x, batch.y) for part in torch.split(every, 512)
                           for batch in [train.fetch(part, run.device)]])
        return norms.topk(max(1, round(self.rate * len(train)))).indices.cpu().sort().values

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Least where answers are wrong and uncertain."""
        entropy = torch.special.entr(logits.softmax(1)).sum(1).mean()
        loss: Tensor = -functional.cross_entropy(logits, labels) - self.uncertainty * entropy
        return loss
