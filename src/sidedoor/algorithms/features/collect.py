"""Penultimate features: the inputs of a classifier's last layer, over a whole data set by one pass."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.models.base import penultimate
from sidedoor.types import Batch


class Features(NamedTuple):
    """Of each row of a data set, on the CPU."""

    logits: Float[Tensor, "n k"]
    features: Float[Tensor, "n d"]
    labels: Int[Tensor, "n"]


def collect(model: nn.Module, data: Dataset, run: Run) -> Features:
    """Logits and penultimate features of a data set, without augmentation, in its order.

    Raises:
        ConfigError: the model has no head, or the data are empty.
    """
    def rows(batch: Batch) -> dict[str, Tensor]:
        return dict(zip(("logits", "features"), penultimate(model, batch.x), strict=True))

    table = run.per_sample(model, data, rows)
    return Features(table["logits"], table["features"], data.targets)
