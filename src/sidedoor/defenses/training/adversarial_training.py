"""Adversarial training: a training defence that trains on what PGD makes of each batch.

Paper: Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR
2018, arXiv:1706.06083; against poison Geiping, Fowl, Somepalli, Goldblum, Moeller, Goldstein, "What Doesn't Kill You
Makes You Robust(er): How to Adversarially Train against Data Poisoning", 2021, arXiv:2102.13624.

What a bounded perturbation can undo is not learned; a visible trigger is outside every bound that leaves accuracy, and
robust networks rely on it as others do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sidedoor.algorithms.adversarial.training import Robust
from sidedoor.data.base import Dataset
from sidedoor.defenses.training.base import TrainingDefense
from sidedoor.engine import Run
from sidedoor.method import Count, NonNegative
from sidedoor.tasks.task import Task
from sidedoor.types import Build


@dataclass(frozen=True)
class AdversarialTraining(TrainingDefense):
    """Train on perturbed images, of which a step takes `iterations` + 1 times as long as of plain ones.

    Args:
        epsilon: bound of the perturbation, in 8-bit levels; 0 is plain training.
        iterations: steps of PGD for each batch, of a quarter of the bound.
    """

    origins: ClassVar[dict[str, str]] = {
        "epsilon": "release: 8 on CIFAR-10", "iterations": "release: 5 steps",
    }

    epsilon: NonNegative = 8.0
    iterations: Count = 5

    def train(self, train: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        objective = Robust(task.loss, self.epsilon, self.iterations)
        return run.fit(run.build(build), train, objective, name="adversarial training")
