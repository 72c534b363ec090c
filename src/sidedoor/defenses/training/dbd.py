"""DBD: a training defence that learns features without labels first, and lets labels in that fit them.

Paper: Huang, Li, Wu, Qin, Ren, "Backdoor Defense via Decoupling the Training Process", ICLR 2022, arXiv:2202.03423.

SimCLR on all images, the head alone by the symmetric cross-entropy, and MixMatch of the whole network in which the
labels of the rows with the highest losses, renewed every round, are not looked at. The release records losses with the
training augmentation, lets running statistics move while it trains the head, and keeps the epoch of best test accuracy;
ours records them without, leaves the frozen part alone, and delivers the last epoch. SimCLR's loss is taken from both
views, and each stage begins with an optimiser of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.contrastive import VIEWS, Pretraining, View, Views
from sidedoor.algorithms.head_alone import train_head
from sidedoor.algorithms.mixmatch import Rounds
from sidedoor.algorithms.splits import lowest, symmetric_cross_entropy, symmetric_losses
from sidedoor.data.base import Dataset
from sidedoor.defenses.training.base import TrainingDefense
from sidedoor.engine import Run
from sidedoor.method import Count, NonNegative, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Build


@dataclass(frozen=True)
class DBD(TrainingDefense):
    """Learn features by SimCLR, a head on them, then all by MixMatch with the labels of the lowest losses.

    The defaults are hundreds of times the victim's training. Shorten `pretraining_epochs` and `rounds`, then `steps`.
    Ten `head_epochs` are thousands of steps on the paper's 50,000 rows; where they are a hundred raise them, since
    MixMatch then trusts the rows of a few classes and forgets the others. The head sees the poison, so a trigger all
    over the image may survive, as the authors of ASD report of CIFAR-10.

    Args:
        pretraining_epochs: passes of contrastive learning.
        pretraining_batch: rows a step of it, at most a quarter of them.
        pretraining_lr: its peak learning rate.
        temperature: of its loss.
        views: changes that make its views; add "flip" for photographs.
        window: smallest share of the area that a cropped view keeps.
        head_epochs: passes that train the head alone.
        trusted: share of the rows whose labels MixMatch uses.
        rounds: of MixMatch, each with a split of its own.
        steps: of a round, rounded to whole epochs.
        batch: rows a step of the head and of MixMatch, at most half of them.
        lr: of Adam for the head and in MixMatch.
        weight: of the other rows' loss in the last round.

    Raises:
        ConfigError: a share so small that no row is trusted.
        NotApplicable: a network without a head.
    """

    origins: ClassVar[dict[str, str]] = {
        "pretraining_epochs": "release", "pretraining_batch": "release", "pretraining_lr": "release",
        "temperature": "release", "views": "ours: without the flip, which makes other digits and signs",
        "window": "release: 0.4 suits digits better", "head_epochs": "release",
        "trusted": "paper: ε = 50 %", "rounds": "release", "steps": "release: train_iteration",
        "batch": "release: 64 of each kind", "lr": "release", "weight": "release: lambda_u",
    }
    quick: ClassVar[dict[str, Any]] = {"pretraining_epochs": 1, "head_epochs": 1, "rounds": 2, "steps": 1}

    pretraining_epochs: Count = 1000
    pretraining_batch: Count = 512
    pretraining_lr: Positive = 0.4
    temperature: Positive = 0.5
    views: tuple[View, ...] = VIEWS
    window: Share = 0.2
    head_epochs: Count = 10
    trusted: Share = 0.5
    rounds: Count = 190
    steps: Count = 1024
    batch: Count = 128
    lr: Positive = 2e-3
    weight: NonNegative = 15.0

    def train(self, train: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        pretraining = Pretraining(self.pretraining_epochs, self.pretraining_batch, self.pretraining_lr,
                                  self.temperature, Views(self.views, self.window))
        model = pretraining.fit(run.build(build), train, run)
        adam = replace(run.recipe, optimizer="adam", lr=self.lr, momentum=0.9, weight_decay=0.0, schedule="constant",
                       epochs=self.head_epochs, batch=self.batch)
        model = train_head(model, train, loss, replace(run, recipe=adam))
        rounds = Rounds(self.rounds, self.steps, self.batch, self.lr, self.weight)
        return rounds.fit(model, train, lambda model, _: lowest(symmetric_losses(model, train, run), self.trusted), run)


def loss(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
    """The mean symmetric cross-entropy."""
    return symmetric_cross_entropy(model(batch.x), batch.y).mean()
