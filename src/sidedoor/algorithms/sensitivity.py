"""Sensitivity of features to transformations (FCT), which is larger for poisoned rows, and splits of the rows by it.

Paper: Chen, Wu, Wang, "Effective Backdoor Defense by Exploiting Sensitivity of Poisoned Samples", NeurIPS 2022.

A network is trained for a short time, then its features for nothing but class centres that are far from each other.
Ours ends that once the features have collapsed, which the authors' second phase may lead to, averages the change over
several transformations of an image, of which the release draws one, and takes rows for clean class by class.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.head_alone import Loss
from sidedoor.algorithms.splits import lowest, row_of
from sidedoor.core.random import seed_of, uniform
from sidedoor.data.base import Dataset
from sidedoor.engine import Objective, Run
from sidedoor.image.geometry import turned
from sidedoor.models.base import penultimate
from sidedoor.tasks.task import Supervised, Task
from sidedoor.types import Batch, Build, Images

SHIFT = 0.2
"""Largest move along each axis, as a share of the side."""
COLLAPSED = 1e-3
"""Spread within classes, as a share of the first epoch's, at which features tell nothing any more."""


@dataclass(frozen=True)
class Sensitivity:
    """How the change of features is measured.

    Args:
        epochs: of ordinary training, without augmentation.
        apart_epochs: in which class centres are driven apart.
        lr: of both.
        degrees: largest rotation, either way.
        draws: transformations of each image.
    """

    epochs: int
    apart_epochs: int
    lr: float
    degrees: float
    draws: int

    def of(self, train: Dataset, task: Task, build: Build, run: Run) -> Float[Tensor, "n"]:
        """The mean squared change of each row's features."""
        run = replace(run, augment=None)
        recipe = replace(run.recipe, optimizer="sgd", lr=self.lr, momentum=0.9, weight_decay=5e-4, schedule="constant",
                         epochs=self.epochs, patience=0)
        model = run.fit(run.build(build), train, Supervised(task), name="sensitive", recipe=recipe)
        model = run.fit(model, train, CentresApart(), name="centres apart",
                        recipe=replace(recipe, epochs=self.apart_epochs))
        return self.change(model, train, run)

    def change(self, model: nn.Module, data: Dataset, run: Run) -> Float[Tensor, "n"]:
        """The mean squared change of the features that a model gives, by draws of each row's own."""
        def rows(batch: Batch) -> dict[str, Tensor]:
            before = penultimate(model, batch.x)[1]
            changes = [(penultimate(model, self.transformed(batch, run, draw))[1] - before).square().mean(1)
                       for draw in range(self.draws)]
            return {"change": torch.stack(changes).mean(0)}

        return run.per_sample(model, data, rows)["change"]

    def transformed(self, batch: Batch, run: Run, draw: int) -> Images:
        """Images rotated and moved, drawn for each by its index."""
        seed = seed_of(run.seed, f"{run.scope}sensitivity/{draw}")
        angle, across, down = (2 * uniform(seed, batch.index, 3) - 1).unbind(1)
        return turned(batch.x, self.degrees * angle, 1.0, 2 * SHIFT * torch.stack([across, down], 1))


class CentresApart(Objective):
    """The mean cosine between the centres of the classes in a batch.

    It stops when the spread within classes has fallen to a thousandth of the first epoch's.
    """

    spread: Tensor
    first: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("spread", torch.zeros(()))
        self.register_buffer("first", torch.zeros(()))

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        features = penultimate(model, batch.x)[1].float()
        member = functional.one_hot(batch.y, int(batch.y.max()) + 1).float()
        present = member.sum(0) > 0
        means = member.T @ features / member.sum(0).clamp(min=1)[:, None]
        self.spread += (features - means[batch.y]).detach().square().mean()
        unit = functional.normalize(means[present], dim=1)
        cosines = unit @ unit.T
        pairs = ~torch.eye(len(unit), dtype=torch.bool, device=unit.device)
        return (cosines * pairs).sum()[None] / pairs.sum().clamp(min=1)

    def end_epoch(self, model: nn.Module, epoch: int) -> bool:
        if epoch == 0:
            self.first.copy_(self.spread)
        collapsed = bool(self.spread < COLLAPSED * self.first)
        self.spread.zero_()
        return collapsed


def parts(change: Float[Tensor, "n"], y: Int[Tensor, "n"], clean: float, poisoned: float) \
        -> tuple[Bool[Tensor, "n"], Bool[Tensor, "n"]]:
    """Flags of the rows that are taken for clean, whose features change least, and for poisoned, whose change most.

    Args:
        y: given labels. Some classes change less than others, so that least is least of its class.
        clean: share of the rows of each class.
        poisoned: share of all rows; none that is taken for clean.
    """
    trusted = torch.zeros(len(change), dtype=torch.bool)
    for label in torch.unique(y):
        own = torch.nonzero(y == label)[:, 0]
        trusted[own] = lowest(change[own], clean)
    return trusted, lowest(-change, poisoned) & ~trusted


def signed_loss(task: Task, data: Dataset, unlearned: Bool[Tensor, "n"], weight: float) -> Loss:
    """The task's loss of rows that are to be learned, less a weight times that of others: its mean over a batch.

    Args:
        data: the rows.
        unlearned: which of them are unlearned.
    """
    sign, row = torch.where(unlearned, -weight, 1.0), row_of(data)

    def loss(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        mean: Tensor = (sign[row[batch.index.cpu()]].to(batch.x.device) * task.loss(model, batch)).mean()
        return mean

    return loss
