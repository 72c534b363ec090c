"""SEAM: a repair that makes a model forget everything by wrong labels, then lets it learn its task again.

Paper: Zhu, Tang, Tang, Wang, Tang, "Selective Amnesia: On Efficient, High-Fidelity and Blind
Suppression of Backdoor Effects in Trojaned Machine Learning Models", IEEE Symposium on Security and Privacy 2023,
arXiv:2212.04687.

Clean samples with random wrong labels erase the task and the backdoor; the same samples with their own labels bring
back the task alone. The paper forgets on a hundredth of the training data and recovers on a tenth; ours has few clean
samples, and uses all of them for both.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.short_training import for_steps
from sidedoor.core import random
from sidedoor.data.base import Dataset
from sidedoor.defenses.repair.base import Repair
from sidedoor.engine import Objective, Run
from sidedoor.method import Count, Positive
from sidedoor.tasks.task import Supervised, Task
from sidedoor.types import Batch

RECALL = 0.6
"""Accuracy below which few classes count as forgotten; of many it is twice that of a guess."""


@dataclass(frozen=True)
class SEAM(Repair):
    """Train on wrong labels until the task is forgotten, then on the right ones.

    Args:
        forget_steps: most steps on wrong labels; they end after the epoch in which accuracy falls below twice a guess,
            or below 60 %.
        steps: on the right labels.
        batch: samples a step, at most.
        lr: learning rate of Adam, constant.
    """

    origins: ClassVar[dict[str, str]] = {
        "forget_steps": "ours: the port's 10 epochs over 500 images", "steps": "ours: the paper stops by accuracy",
        "batch": "ours: open in the paper", "lr": "ours: that of a port, open in the paper",
    }
    quick: ClassVar[dict[str, Any]] = {"forget_steps": 4, "steps": 4}

    forget_steps: Count = 40
    steps: Count = 400
    batch: Count = 64
    lr: Positive = 1e-3

    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        tuned = copy.deepcopy(model).requires_grad_(True)
        wrong = _Wrong(len(clean.classes), random.seed_of(run.seed, f"{run.scope}wrong labels"))
        for name, objective, steps in (("forget", wrong, self.forget_steps), ("recover", Supervised(task), self.steps)):
            recipe = for_steps(run, clean, steps, self.batch, optimizer="adam", lr=self.lr, momentum=0.9,
                               weight_decay=0.0, schedule="constant")
            tuned = run.fit(tuned, clean, objective, name=name, recipe=recipe)
        return tuned


class _Wrong(Objective):
    """Cross-entropy towards a random wrong label, always the same for a sample."""

    def __init__(self, classes: int, seed: int):
        super().__init__()
        self.classes, self.seed = classes, seed
        self.hits: list[Tensor] = []

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = model(batch.x)
        self.hits.append((logits.argmax(1) == batch.y).float().detach())
        return functional.cross_entropy(logits, self.labels(batch))[None]

    def labels(self, batch: Batch) -> Tensor:
        drawn = random.uniform(self.seed, batch.index).to(batch.y.device)
        shift = 1 + (drawn * (self.classes - 1)).long().clamp(max=self.classes - 2)
        return (batch.y + shift) % self.classes

    def end_epoch(self, model: nn.Module, epoch: int) -> bool:
        accuracy = torch.cat(self.hits).mean().item()
        self.hits.clear()
        return accuracy < min(2 / self.classes, RECALL)
