"""ASD: a training defence by semi-supervised learning, whose trusted rows grow from a few clean samples.

Paper: Gao, Bai, Gu, Yang, Xia, "Backdoor Defense via Adaptively Splitting Poisoned Dataset", CVPR 2023,
arXiv:2303.12993.

In the first half of the rounds MixMatch trusts the seeds and the rows with the lowest losses of every class, ever more
of them; in the third quarter the half with the lowest losses; in the last the half whose loss falls least while a copy
of the network is trained on all rows, since what poison shows is learned at once. The release takes its seeds from the
truth about its training data; ours are the defender's clean samples, and stay trusted to the end. The release trains
the last two stages of the copy, ours the last third of the parameters and the head.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from sidedoor.algorithms.mixmatch import Rounds
from sidedoor.algorithms.splits import lowest, lowest_per_class, symmetric_losses
from sidedoor.data.base import Dataset, Subset
from sidedoor.defenses.training.base import AidedTraining
from sidedoor.engine import Run
from sidedoor.method import Count, NonNegative, Positive, Share, Whole
from sidedoor.models.base import head
from sidedoor.tasks.task import Supervised, Task
from sidedoor.types import Build

TIMES = 24
"""A round's class-wise pool depends on how many of so many equal parts of all rounds have passed."""


@dataclass(frozen=True)
class ASD(AidedTraining):
    """Train by MixMatch on a growing share of the labels, told apart by losses and then by how fast they fall.

    The defaults are many times the victim's training: shorten `rounds`, to 24 or more, then `steps`. `growth` is for
    5,000 rows of a class; at the end of the first half 11 times as many are trusted.

    Args:
        seeds: clean samples of each class that are trusted from the start, at most.
        growth: rows of each class by which the pool grows, every 24th of the rounds, in the first half.
        trusted: share of the rows that is trusted in the second half.
        meta_lr: of Adam for the copy.
        rounds: of MixMatch, each with a split of its own.
        steps: of a round, rounded to whole epochs.
        batch: rows a step, at most half of them.
        lr: of Adam.
        weight: of the other rows' loss in the last round.

    Raises:
        NotApplicable: a network without a head.
    """

    origins: ClassVar[dict[str, str]] = {
        "seeds": "paper", "growth": "paper", "trusted": "paper", "meta_lr": "release", "rounds": "paper",
        "steps": "release: train_iteration", "batch": "release: 64 of each kind", "lr": "release",
        "weight": "release: lambda_u",
    }
    quick: ClassVar[dict[str, Any]] = {"rounds": 4, "steps": 1}

    seeds: Count = 10
    growth: Whole = 10
    trusted: Share = 0.5
    meta_lr: Positive = 0.015
    rounds: Count = 120
    steps: Count = 1024
    batch: Count = 128
    lr: Positive = 2e-3
    weight: NonNegative = 15.0

    def train(self, train: Dataset, clean: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        seeds = Subset(clean, first_of_each(clean.targets, self.seeds))

        def renew(model: nn.Module, number: int) -> Bool[Tensor, "n"]:
            return self.pool(model, train, number, task, run)

        rounds = Rounds(self.rounds, self.steps, self.batch, self.lr, self.weight)
        return rounds.fit(run.build(build), train, renew, run, seeds)

    def pool(self, model: nn.Module, train: Dataset, number: int, task: Task, run: Run) -> Bool[Tensor, "n"]:
        """Which rows are trusted in a round, from 0, beside the seeds."""
        losses = symmetric_losses(model, train, run)
        if 2 * number < self.rounds:
            return lowest_per_class(losses, train.targets, self.growth * (TIMES * number // self.rounds))
        if 4 * number >= 3 * self.rounds:
            ahead = self._ahead(model, train, number, task, run)
            losses = losses - symmetric_losses(ahead, train, run)
        return lowest(losses, self.trusted)

    def _ahead(self, model: nn.Module, train: Dataset, number: int, task: Task, run: Run) -> nn.Module:
        """A copy whose last layers had one more epoch, with the labels of all rows."""
        ahead = copy.deepcopy(model).requires_grad_(False)
        parameters = list(ahead.parameters())
        for parameter in [*parameters[-(len(parameters) // 3) :], *head(ahead).parameters()]:
            parameter.requires_grad_(True)
        recipe = replace(run.recipe, optimizer="adam", lr=self.meta_lr, momentum=0.9, weight_decay=0.0, epochs=1,
                         schedule="constant", batch=max(2, min(self.batch, len(train) // 2)), patience=0)
        # Not checkpointed: it is a part of an epoch of MixMatch, and repeated with it.
        return replace(run, checkpoints=None).fit(ahead, train, Supervised(task), name=f"ahead {number}", recipe=recipe)


def first_of_each(y: Tensor, count: int) -> Tensor:
    """The first rows of each class, at most `count`, in order."""
    return torch.nonzero(lowest_per_class(torch.zeros(len(y)), y.cpu(), count))[:, 0]
