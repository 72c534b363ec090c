"""MixMatch: learning from rows of which some are trusted and the labels of all others are not looked at.

Paper: Berthelot, Carlini, Goodfellow, Papernot, Oliver, Raffel, "MixMatch: A Holistic Approach to Semi-Supervised
Learning", NeurIPS 2019, arXiv:1905.02249.

Used by DBD and ASD, whose releases draw batches of 64 trusted rows and 64 others. Ours goes through all rows, and draws
trusted rows until there are as many as others. All are mixed and passed through the network at once, so that batch
normalisation sees both kinds alike, and guesses of labels leave its running statistics alone. There is no moving
average of weights, which the releases have switched off.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.optim.batch_norm import without_updates
from sidedoor.algorithms.splits import row_of
from sidedoor.data.base import Dataset
from sidedoor.engine import Augment, Objective, Run
from sidedoor.errors import ConfigError
from sidedoor.types import Batch, Images, joined

ALPHA = 0.75
"""Of the Beta distribution of weights in a mixture."""
TEMPERATURE = 0.5
"""Guesses are sharpened by the power of its inverse."""

Renew = Callable[[nn.Module, int], Bool[Tensor, "n"]]
"""(model, round) -> which rows are trusted from now on."""


@dataclass(frozen=True)
class Rounds:
    """How long MixMatch takes, and when the split is renewed.

    Args:
        count: of rounds, each with a split of its own.
        steps: of a round, rounded to whole epochs, at least one.
        batch: rows a step, trusted and others, at most half of the data.
        lr: of Adam, constant.
        weight: of the others' loss in the last round; it grows from 0 in proportion to the rounds.
    """

    count: int
    steps: int
    batch: int
    lr: float
    weight: float

    def fit(self, model: nn.Module, data: Dataset, renew: Renew, run: Run, seeds: Dataset | None = None) -> nn.Module:
        """Train a model in place by MixMatch.

        Args:
            renew: gives flags (n,) of the trusted rows; it is called at the start of every round, after the first with
                the model in training mode.
            seeds: samples beside the data that are always trusted.

        Raises:
            ConfigError: nothing is trusted.
        """
        batch = max(2, min(self.batch, len(data) // 2))
        epochs = max(1, round(self.steps / math.ceil(len(data) / batch)))
        recipe = replace(run.recipe, optimizer="adam", lr=self.lr, momentum=0.9, weight_decay=0.0, schedule="constant",
                         epochs=self.count * epochs, batch=batch, patience=0)
        objective = MixMatch(data, seeds, renew, run.augment, self, epochs)
        return replace(run, augment=None).fit(model, data, objective, name="semi-supervised", recipe=recipe)


class MixMatch(Objective):
    """The loss of mixtures of trusted rows under their labels and of others under guesses from two views of each.

    Args:
        data: all rows.
        seeds: more of the trusted ones.
        renew: which rows are trusted, by round.
        augment: makes the views.
        rounds: how many.
        epochs: of a round.
    """

    trusted: Tensor
    row: Tensor
    done: Tensor

    def __init__(self, data: Dataset, seeds: Dataset | None, renew: Renew, augment: Augment | None, rounds: Rounds,
                 epochs: int):
        super().__init__()
        self.data, self.seeds, self.renew, self.rounds, self.epochs = data, seeds, renew, rounds, epochs
        self.augment = augment or (lambda batch: batch)
        self.register_buffer("trusted", torch.zeros(len(data), dtype=torch.bool))
        self.register_buffer("row", row_of(data), persistent=False)
        self.register_buffer("done", torch.zeros(()))

    def start(self, model: nn.Module, run: Run) -> None:
        self.data = self.data.staged(run.device)
        self._renew(model, 0)

    def end_epoch(self, model: nn.Module, epoch: int) -> bool:
        self.done.fill_((epoch + 1) / self.epochs)
        if (epoch + 1) % self.epochs == 0 and epoch + 1 < self.rounds.count * self.epochs:
            self._renew(model, (epoch + 1) // self.epochs)
        return False

    def _renew(self, model: nn.Module, number: int) -> None:
        flags = self.renew(model, number)
        if not flags.any() and not self.seeds:
            raise ConfigError(f"round {number + 1} of MixMatch has no row with a label to trust; raise their share")
        self.trusted.copy_(flags)

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        known = self.trusted[self.row[batch.index]]
        others = Batch(*(part[~known] for part in batch))
        labelled = self._labelled(Batch(*(part[known] for part in batch)), len(others.x))
        x = self.augment(labelled).x
        target = functional.one_hot(labelled.y, len(self.data.classes)).float()
        if len(others.x):
            views = torch.cat([self.augment(others).x, self.augment(others).x])
            x, target = torch.cat([x, views]), torch.cat([target, guessed(model, views)])
        x, target = mixed(x, target)
        logits = model(x).float()
        weight = self.rounds.weight * (self.done / self.rounds.count).clamp(max=1)
        return semi_supervised(logits, target, len(labelled.x), weight)[None]

    def _labelled(self, own: Batch, count: int) -> Batch:
        """The trusted rows of the batch, and more of the whole and the seeds until there are as many as others."""
        missing = count - len(own.x)
        if missing <= 0:
            return own
        rows = torch.nonzero(self.trusted)[:, 0].cpu()
        drawn = torch.randint(len(rows) + len(self.seeds or ()), (missing,))
        own = joined(own, self.data.fetch(rows[drawn[drawn < len(rows)]], own.x.device))
        if self.seeds is None:
            return own
        return joined(own, self.seeds.fetch(drawn[drawn >= len(rows)] - len(rows), own.x.device))


@torch.no_grad()
def guessed(model: nn.Module, views: Images) -> Float[Tensor, "b k"]:
    """For each view the mean prediction for both views of its image, sharpened.

    Args:
        views: the first view of each image before the second of each. Batch normalisation takes its statistics from
            them and keeps none.
    """
    with without_updates(model):
        first, second = model(views).float().softmax(1).chunk(2)
    sharp: Tensor = ((first + second) / 2).pow(1 / TEMPERATURE)
    return (sharp / sharp.sum(1, keepdim=True)).repeat(2, 1)


def mixed(x: Images, target: Float[Tensor, "b k"]) -> tuple[Images, Float[Tensor, "b k"]]:
    """Each row with a smaller share, one for all, of another in it, and its target likewise."""
    share = float(torch.distributions.Beta(ALPHA, ALPHA).sample())
    share = max(share, 1 - share)
    order = torch.randperm(len(x), device=x.device)
    return torch.lerp(x[order], x, share), torch.lerp(target[order], target, share)


def semi_supervised(logits: Float[Tensor, "b k"], target: Float[Tensor, "b k"], labelled: int,
                    weight: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The cross-entropy of the first rows, and the weighted mean squared error of the predictions for the others."""
    loss = functional.cross_entropy(logits[:labelled], target[:labelled])
    if labelled == len(logits):
        return loss
    return loss + weight * (logits[labelled:].softmax(1) - target[labelled:]).square().mean()
