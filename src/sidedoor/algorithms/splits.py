"""Splits of training data of unknown origin: a loss that tells rows of doubtful label apart, and the lowest of it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.tasks.task import Task
from sidedoor.types import Batch

CROSS_ENTROPY = 0.1
"""Weight of the cross-entropy beside the reverse one, of weight 1."""
LEAST = 1e-4
"""The probability that a label gives to other classes, of which the reverse cross-entropy takes the logarithm."""


def symmetric_cross_entropy(logits: Float[Tensor, "b k"], y: Int[Tensor, "b"]) -> Float[Tensor, "b"]:
    """Of each row, as Wang et al. (ICCV 2019, arXiv:1908.06112) weigh it: bounded in all but a tenth.

    The reverse cross-entropy is that of the label under the prediction, where a logarithm of 0 is that of 1e-4: 9.2
    times what the prediction gives to the other classes.
    """
    logits = logits.float()
    others = 1 - logits.softmax(1).gather(1, y[:, None])[:, 0]
    return CROSS_ENTROPY * functional.cross_entropy(logits, y, reduction="none") - math.log(LEAST) * others


def row_losses(model: nn.Module, data: Dataset, task: Task, run: Run) -> Float[Tensor, "n"]:
    """The task's loss of each row, in evaluation mode and without augmentation."""
    return run.per_sample(model, data, lambda batch: {"loss": task.loss(model, batch)})["loss"]


def symmetric_losses(model: nn.Module, data: Dataset, run: Run) -> Float[Tensor, "n"]:
    """The symmetric cross-entropy of each row under its given label, in evaluation mode and without augmentation."""
    def rows(batch: Batch) -> dict[str, Tensor]:
        return {"loss": symmetric_cross_entropy(model(batch.x), batch.y)}

    return run.per_sample(model, data, rows)["loss"]


def row_of(data: Dataset) -> Int[Tensor, "m"]:
    """Which row of a data set has a position, as batches name it by `index`; in a sealed view they are the same.

    Positions without a row have row 0, and of rows that share one the last counts.
    """
    position = data.position(torch.arange(len(data))).cpu()
    return torch.zeros(int(position.max()) + 1, dtype=torch.int64).index_copy(0, position, torch.arange(len(data)))


def lowest(scores: Float[Tensor, "n"], share: float) -> Bool[Tensor, "n"]:
    """Flags of the rows with the lowest scores; of equal ones the first come first.

    Args:
        share: of all rows, in [0, 1]; their number is rounded.
    """
    flags = torch.zeros(len(scores), dtype=torch.bool)
    flags[scores.argsort(stable=True)[: round(share * len(scores))]] = True
    return flags


def lowest_per_class(scores: Float[Tensor, "n"], y: Int[Tensor, "n"], count: int) -> Bool[Tensor, "n"]:
    """Flags of the rows with the lowest scores of each class; of equal ones the first come first.

    Args:
        y: the class of each row.
        count: rows of a class, at most; 0 flags none.
    """
    order = scores.argsort(stable=True)
    order = order[y[order].argsort(stable=True)]
    sizes = torch.bincount(y)
    rank = torch.arange(len(y)) - (sizes.cumsum(0) - sizes)[y[order]]
    flags = torch.zeros(len(scores), dtype=torch.bool)
    flags[order[rank < count]] = True
    return flags
