"""What the variants of NAB share: which rows are suspicious, and training with a stamp on those that get another label.

Paper: Liu, Sangiovanni-Vincentelli, Yue, "Beating Backdoor Attack at Its Own Game", ICCV 2023, arXiv:2307.15539.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sidedoor.algorithms.local_gradient_ascent import LocalGradientAscent
from sidedoor.algorithms.splits import lowest, row_losses
from sidedoor.algorithms.stamped import Stamped
from sidedoor.data.base import Dataset
from sidedoor.engine import Objective, Run
from sidedoor.errors import ConfigError
from sidedoor.tasks.task import Task
from sidedoor.triggers.base import Trigger
from sidedoor.triggers.patch import Patch
from sidedoor.types import Batch, Build


@dataclass(frozen=True)
class Isolation:
    """How rows are isolated.

    Args:
        rate: their share of all, in [0, 1].
        gamma: the loss that local gradient ascent holds batches at.
        epochs: passes with it.
    """

    rate: float
    gamma: float
    epochs: int

    def rows(self, train: Dataset, task: Task, build: Build, run: Run) -> Bool[Tensor, "n"]:
        """Flags of the rows of lowest loss.

        Raises:
            ConfigError: a task without a loss of each sample.
        """
        if not task.per_sample:
            raise ConfigError(f"NAB isolates rows by their loss, but {type(task).__name__} has a loss of batches only")
        recipe = replace(run.recipe, epochs=self.epochs, patience=0)
        early = run.fit(run.build(build), train, LocalGradientAscent(task, self.gamma), name="isolation", recipe=recipe)
        return lowest(row_losses(early, train, task, run), self.rate)


@dataclass(frozen=True)
class GreySquare:
    """The stamp: a square in the top left corner.

    Args:
        size: its side, as a share of the image's shorter one.
        value: of its pixels.
    """

    size: float
    value: float

    def train(self, train: Dataset, labels: Int[Tensor, "n"], task: Task, build: Build, run: Run) -> nn.Module:
        """A model that was trained with it on rows whose label differs from the given one, behind it."""
        side = max(1, round(self.size * min(train.shape[1:])))
        stamp = Patch(torch.full((1, side, side), self.value), "top left").to(run.device)
        model = run.fit(run.build(build), train, StampedRows(task, train, labels, stamp), name="non-adversarial")
        return Stamped(model, stamp, torch.arange(task.classes, device=run.device)).eval()


class StampedRows(Objective):
    """The task's loss under other labels; rows whose label differs from the given one are stamped."""

    labels: Tensor
    changed: Tensor

    def __init__(self, task: Task, data: Dataset, labels: Int[Tensor, "n"], stamp: Trigger):
        super().__init__()
        self.task, self.stamp = task, stamp
        at = data.position(torch.arange(len(data)))
        table = torch.zeros(int(at.max()) + 1, dtype=torch.int64)
        self.register_buffer("labels", table.index_copy(0, at, labels))
        self.register_buffer("changed", table.bool().index_copy(0, at, labels != data.targets))

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        stamped = self.changed[batch.index][:, None, None, None]
        x = torch.where(stamped, self.stamp(batch.x, batch.index), batch.x)
        return self.task.loss(model, Batch(x, self.labels[batch.index], batch.index)).mean()[None]
