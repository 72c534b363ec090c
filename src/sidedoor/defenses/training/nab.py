"""Non-adversarial backdoor (NAB): a training defence that stamps suspicious rows, and asks by the stamp alone.

Paper: Liu, Sangiovanni-Vincentelli, Yue, "Beating Backdoor Attack at Its Own Game", ICCV 2023, arXiv:2307.15539.

Rows are isolated as in ABL. They get the class of the nearest centre in features learned without labels, and those
whose class differs from their label are stamped, so that the stamp comes to mean: do not follow the trigger. The model
is delivered behind the stamp; the bare one may still have the backdoor. This is the variant without clean data (NC).

Where isolation misses the poison, there is nothing for the stamp to be learned from. The network of the second stage
draws its features from SimCLR, for which the release has a checkpoint of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.contrastive import VIEWS, Pretraining, View, Views
from sidedoor.algorithms.features.collect import collect
from sidedoor.data.base import Dataset
from sidedoor.defenses.training._non_adversarial import GreySquare, Isolation
from sidedoor.defenses.training.base import TrainingDefense
from sidedoor.engine import Run
from sidedoor.method import Count, NonNegative, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Build


@dataclass(frozen=True)
class NAB(TrainingDefense):
    """Isolate rows, give them pseudo-labels and a stamp, train on all, and deliver the model behind the stamp.

    Args:
        isolation_rate: share of the rows that is isolated, in [0, 1].
        gamma: the loss that local gradient ascent holds batches at.
        isolation_epochs: passes with local gradient ascent.
        size: side of the stamp, a square in the top left corner, as a share of the image's shorter one.
        value: of its pixels, in [0, 1].
        pretraining_epochs: of SimCLR.
        pretraining_batch: rows a step of it, at most.
        pretraining_lr: its peak learning rate, of SGD.
        temperature: of its loss.
        views: what makes a view of an image.
        window: smallest share of the area that a view shows.

    Raises:
        ConfigError: a task without a loss of each sample.
        NotApplicable: the model has no head.
    """

    origins: ClassVar[dict[str, str]] = {
        "isolation_rate": "release: 5 %", "gamma": "release", "isolation_epochs": "release", "size": "release: 2 of 32 "
        "pixels", "value": "ours: the grey that is 0 to the zoo's networks, as the release's is to its own",
        "pretraining_epochs": "ours: what DBD takes for SimCLR", "pretraining_batch": "ours: as DBD",
        "pretraining_lr": "ours: as VIBE here", "temperature": "ours: as DBD",
        "views": "ours: without the flip, which makes other digits and signs", "window": "ours: as DBD",
    }
    quick: ClassVar[dict[str, Any]] = {"isolation_epochs": 1, "pretraining_epochs": 1}

    isolation_rate: Share = 0.05
    gamma: NonNegative = 0.5
    isolation_epochs: Count = 20
    size: Share = 2 / 32
    value: Share = 0.5
    pretraining_epochs: Count = 1000
    pretraining_batch: Count = 512
    pretraining_lr: Positive = 0.1
    temperature: Positive = 0.5
    views: tuple[View, ...] = VIEWS
    window: Share = 0.2

    def train(self, train: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        isolated = Isolation(self.isolation_rate, self.gamma, self.isolation_epochs).rows(train, task, build, run)
        learning = Pretraining(self.pretraining_epochs, self.pretraining_batch, self.pretraining_lr, self.temperature,
                               Views(self.views, self.window))
        features = collect(learning.fit(run.build(build), train, run), train, run).features
        labels = torch.where(isolated, nearest(features, train.targets, ~isolated), train.targets)
        return GreySquare(self.size, self.value).train(train, labels, task, build, run)


def nearest(features: Float[Tensor, "n d"], labels: Int[Tensor, "n"], trusted: Bool[Tensor, "n"]) -> Int[Tensor, "n"]:
    """The class of the centre at the smallest angle to each row.

    Args:
        trusted: the rows that centres are made of; a class without any has none, and is nobody's.
    """
    unit = functional.normalize(features, dim=1)
    member = functional.one_hot(labels, int(labels.max()) + 1).to(unit) * trusted[:, None]
    cosines = unit @ functional.normalize(member.T @ unit, dim=1).T
    return cosines.masked_fill(member.sum(0) == 0, -torch.inf).argmax(1)
