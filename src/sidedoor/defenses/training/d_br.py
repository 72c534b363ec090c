"""D-BR: a training defence that trains on everything, then unlearns the rows whose features change most.

Paper: Chen, Wu, Wang, "Effective Backdoor Defense by Exploiting Sensitivity of Poisoned Samples", NeurIPS 2022.

Sensitivity under transformations tells clean from poisoned rows (`algorithms/sensitivity`). The release alternates
epochs that ascend the loss of the poisoned rows and descend that of the clean ones; ours does both in every step, each
row with its sign. The ascended loss has no upper bound, so ours clips the gradient. The release keeps the epoch of best
accuracy less attack success on test data; ours delivers the last.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.head_alone import Loss
from sidedoor.algorithms.inspection import inspection_model
from sidedoor.algorithms.sensitivity import Sensitivity, parts, signed_loss
from sidedoor.data.base import Dataset, Subset
from sidedoor.defenses.training.base import TrainingDefense
from sidedoor.engine import Objective, Run
from sidedoor.errors import ConfigError
from sidedoor.method import Count, NonNegative, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Build


@dataclass(frozen=True)
class DBR(TrainingDefense):
    """Train by the run's recipe, then learn the least sensitive rows and unlearn the most sensitive ones.

    It costs one training of the victim's length and `epochs` + `apart_epochs` + a quarter of `unlearn_epochs` more.
    Two `epochs` are hundreds of steps on the paper's 50,000 rows. Where they are a few dozen raise them: a network that
    has not met the trigger yet does not change with it. A trigger all over the image may change less than anything else
    under transformations, and its rows are then taken for clean.

    Args:
        epochs: of ordinary training, without augmentation, before sensitivity is measured.
        apart_epochs: in which class centres are driven apart.
        lr: of both.
        degrees: largest rotation, either way.
        draws: transformations of each image.
        clean: share of the rows of each class that is learned.
        poisoned: share of the rows that is unlearned.
        unlearn_epochs: passes over both.
        unlearn_lr: the constant learning rate of unlearning.
        clip: largest norm of its gradient.

    Raises:
        ConfigError: shares that leave no row.
        NotApplicable: a network without a head.
    """

    inspects: ClassVar[bool] = True
    origins: ClassVar[dict[str, str]] = {
        "epochs": "release", "apart_epochs": "release", "lr": "release", "degrees": "release",
        "draws": "ours: one in the release, which is noisy", "clean": "paper: of all rows together",
        "poisoned": "paper",
        "unlearn_epochs": "release", "unlearn_lr": "release",
        "clip": "ours: the loss that is ascended has no upper bound",
    }
    quick: ClassVar[dict[str, Any]] = {"apart_epochs": 2, "draws": 2, "unlearn_epochs": 2}

    epochs: Count = 2
    apart_epochs: Count = 10
    lr: Positive = 0.01
    degrees: NonNegative = 180.0
    draws: Count = 4
    clean: Share = 0.2
    poisoned: Share = 0.05
    unlearn_epochs: Count = 20
    unlearn_lr: Positive = 1e-4
    clip: Positive = 1.0

    def train(self, train: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        how = Sensitivity(self.epochs, self.apart_epochs, self.lr, self.degrees, self.draws)
        clean, poisoned = parts(how.of(train, task, build, run), train.targets, self.clean, self.poisoned)
        rows = Subset(train, torch.nonzero(clean | poisoned)[:, 0])
        if len(rows) < 2:
            raise ConfigError(f"{len(rows)} of {len(train)} rows are learned or unlearned; raise `clean`")
        model = copy.deepcopy(inspection_model(train, task, build, run))
        recipe = replace(run.recipe, lr=self.unlearn_lr, epochs=self.unlearn_epochs, schedule="constant",
                         clip=self.clip, patience=0)
        loss = signed_loss(task, rows, poisoned[clean | poisoned], 1.0)
        return run.fit(model, rows, LearnAndUnlearn(loss), name="unlearning", recipe=recipe)


class LearnAndUnlearn(Objective):
    """A loss of which some rows have the wrong sign."""

    def __init__(self, loss: Loss):
        super().__init__()
        self.loss = loss

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        return self.loss(model, batch)[None]
