"""D-ST: a training defence by contrastive learning in which labels count for the least sensitive rows alone.

Paper: Chen, Wu, Wang, "Effective Backdoor Defense by Exploiting Sensitivity of Poisoned Samples", NeurIPS 2022.

Sensitivity under transformations tells clean, uncertain and poisoned rows apart (`algorithms/sensitivity`). Contrastive
learning then brings the views of clean rows of a class together, and of any other row its own two. The head is trained
on clean rows, and poisoned ones are unlearned with a small weight. Views are those of SimCLR; the head's loss is the
mean over all rows of a batch, and the learning rates fall to 0 as a cosine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sidedoor.algorithms.contrastive import VIEWS, Contrastive, Pretraining, View, Views, partners
from sidedoor.algorithms.head_alone import train_head
from sidedoor.algorithms.sensitivity import Sensitivity, parts, signed_loss
from sidedoor.algorithms.splits import row_of
from sidedoor.data.base import Dataset, Subset
from sidedoor.defenses.training.base import TrainingDefense
from sidedoor.engine import Recipe, Run
from sidedoor.errors import ConfigError
from sidedoor.method import Count, NonNegative, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Build


@dataclass(frozen=True)
class DST(TrainingDefense):
    """Learn features by semi-supervised contrastive learning, then the head from the least sensitive rows.

    Shorten `contrastive_epochs`, which are nearly all of the time. Two `epochs` and ten `head_epochs` are hundreds of
    steps on the paper's 50,000 rows. Where they are a few dozen raise them: a network that has not met the trigger yet
    does not change with it. A trigger all over the image may change less than anything else under transformations, and
    its rows are then taken for clean.

    Args:
        epochs: of ordinary training, without augmentation, before sensitivity is measured.
        apart_epochs: in which class centres are driven apart.
        lr: of both.
        degrees: largest rotation, either way.
        draws: transformations of each image.
        clean: share of the rows of each class whose labels are used.
        poisoned: share of the rows that is unlearned.
        contrastive_epochs: passes of contrastive learning.
        contrastive_batch: rows a step of it, at most a quarter of them.
        contrastive_lr: its peak learning rate.
        temperature: of its loss.
        views: changes that make its views; add "flip" for photographs.
        window: smallest share of the area that a cropped view keeps.
        head_epochs: passes that train the head alone.
        head_lr: their peak learning rate.
        unlearning: weight of the poisoned rows' loss, which is ascended.

    Raises:
        ConfigError: shares that leave no row for the head.
        NotApplicable: a network without a head.
    """

    origins: ClassVar[dict[str, str]] = {
        "epochs": "release", "apart_epochs": "release", "lr": "release", "degrees": "release",
        "draws": "ours: one in the release, which is noisy", "clean": "paper: of all rows together",
        "poisoned": "paper",
        "contrastive_epochs": "release", "contrastive_batch": "release", "contrastive_lr": "release",
        "temperature": "release", "views": "ours: without the flip, which makes other digits and signs",
        "window": "ours: as for DBD", "head_epochs": "release",
        "head_lr": "ours: 5 in the release, which diverges on digits", "unlearning": "release",
    }
    quick: ClassVar[dict[str, Any]] = {"apart_epochs": 2, "draws": 2, "contrastive_epochs": 2, "head_epochs": 2}

    epochs: Count = 2
    apart_epochs: Count = 10
    lr: Positive = 0.01
    degrees: NonNegative = 180.0
    draws: Count = 4
    clean: Share = 0.2
    poisoned: Share = 0.05
    contrastive_epochs: Count = 200
    contrastive_batch: Count = 512
    contrastive_lr: Positive = 0.5
    temperature: Positive = 0.1
    views: tuple[View, ...] = VIEWS
    window: Share = 0.2
    head_epochs: Count = 10
    head_lr: Positive = 1.0
    unlearning: NonNegative = 1e-3

    def train(self, train: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        how = Sensitivity(self.epochs, self.apart_epochs, self.lr, self.degrees, self.draws)
        clean, poisoned = parts(how.of(train, task, build, run), train.targets, self.clean, self.poisoned)
        rows = Subset(train, torch.nonzero(clean | poisoned)[:, 0])
        if len(rows) < 2:
            raise ConfigError(f"{len(rows)} of {len(train)} rows are learned or unlearned; raise `clean`")
        pretraining = Pretraining(self.contrastive_epochs, self.contrastive_batch, self.contrastive_lr,
                                  self.temperature, Views(self.views, self.window))
        recipe = pretraining.recipe(train, run)
        objective = SemiSupervisedContrast(pretraining.views, recipe, self.temperature, train, clean)
        model = replace(run, augment=None).fit(run.within("delivered").build(build), train, objective,
                                               name="contrastive", recipe=recipe)
        last = replace(recipe, epochs=self.head_epochs, lr=self.head_lr, weight_decay=0.0)
        loss = signed_loss(task, rows, poisoned[clean | poisoned], self.unlearning)
        return train_head(model, rows, loss, replace(run, recipe=last))


class SemiSupervisedContrast(Contrastive):
    """Bring a row's other view near, and for clean rows the views of all clean rows of their class in the batch.

    Args:
        data: all rows.
        clean: which of them have a label that counts.
    """

    clean: Tensor
    row: Tensor

    def __init__(self, views: Views, recipe: Recipe, temperature: float, data: Dataset, clean: Bool[Tensor, "n"]):
        super().__init__(views, recipe, temperature)
        self.register_buffer("clean", clean)
        self.register_buffer("row", row_of(data), persistent=False)

    def loss(self, similarity: Float[Tensor, "views views"], batch: Batch) -> Float[Tensor, ""]:
        clean, y = self.clean[self.row[batch.index]].repeat(2), batch.y.repeat(2)
        near = (y[:, None] == y) & clean[:, None] & clean
        near[torch.arange(len(y), device=y.device), partners(len(batch.y), y.device)] = True
        near.fill_diagonal_(False)
        likely = torch.where(near, similarity.log_softmax(1), 0.0).sum(1) / near.sum(1)
        return -likely.mean()
