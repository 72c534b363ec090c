"""Gram statistics: how products of the channels of an image's maps deviate from those of clean images of its class.

Paper: Ma, Wang, Sun, Xue, Wen, Xiang, "The 'Beatrix' Resurrections: Robust Backdoor Detection via Gram Matrices", NDSS
2023, arXiv:2209.11715.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sidedoor.algorithms.features.class_statistics import require_samples
from sidedoor.algorithms.features.cut import Cut
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.types import Images

FLOOR = 1e-3
"""Least size of a bound that deviations are divided by, as a share of the mean size of medians: dead channels have
bounds of about 0, and would decide the score."""


def gram_vectors(maps: Float[Tensor, "b c h w"], orders: Sequence[int]) -> Float[Tensor, "b p e"]:
    """The upper triangle of the Gram matrix of maps to each power, and its root of the same order."""
    features = maps.float().flatten(2)
    row, column = torch.triu_indices(features.shape[1], features.shape[1], device=maps.device)
    parts = []
    for order in orders:
        raised = features**order
        product = (raised @ raised.mT)[:, row, column]
        parts.append(product.sign() * product.abs() ** (1 / order))
    return torch.stack(parts, 1)


class GramStatistics(NamedTuple):
    """Of the Gram vectors of k classes: the median of each entry, and its median absolute deviation."""

    median: Float[Tensor, "k p e"]
    spread: Float[Tensor, "k p e"]

    def deviations(self, vectors: Float[Tensor, "b p e"], labels: Int[Tensor, "b"],
                   bound: float) -> Float[Tensor, "b"]:
        """How far the entries of each vector are outside the bounds of a class, relative to these, in the mean.

        Args:
            bound: median absolute deviations from the median to either bound.
        """
        median, spread = self.median[labels], self.spread[labels]
        low, high = median - bound * spread, median + bound * spread
        least = FLOOR * median.abs().mean(2, keepdim=True).clamp(min=torch.finfo(median.dtype).tiny / FLOOR)
        below = torch.relu(low - vectors) / low.abs().maximum(least)
        above = torch.relu(vectors - high) / high.abs().maximum(least)
        return (below + above).mean((1, 2))


def gram_statistics(vectors: Float[Tensor, "n p e"], labels: Int[Tensor, "n"], classes: int) -> GramStatistics:
    """The statistics of each class.

    Raises:
        NotApplicable: a class without a sample.
    """
    require_samples(labels, range(classes), "Gram statistics need at least one of each")
    members = [vectors[labels == label] for label in range(classes)]
    median = torch.stack([group.median(0).values for group in members])
    spread = torch.stack([(group - centre).abs().median(0).values
                          for group, centre in zip(members, median, strict=True)])
    return GramStatistics(median, spread)


@dataclass(frozen=True)
class GramBounds:
    """How far images leave the bounds that clean ones of a class keep, at one stage of a network.

    Args:
        chosen: channels whose products are looked at.
        bound: median absolute deviations from the median to either bound.
    """

    network: Cut
    chosen: Int[Tensor, "c"]
    orders: tuple[int, ...]
    bound: float
    statistics: GramStatistics

    @classmethod
    def of(cls, network: Cut, clean: Dataset, channels: int, orders: tuple[int, ...], bound: float, run: Run) -> Self:
        """Those of clean images.

        Args:
            channels: most that are looked at, drawn at random.

        Raises:
            NotApplicable: a class without a clean image.
        """
        with torch.no_grad():
            width = network.maps(clean.fetch(torch.tensor([0]), run.device).x).shape[1]
        chosen = torch.randperm(width, generator=run.rng("channels"))[:channels].sort().values.to(run.device)
        table = run.per_sample(network.model, clean, lambda batch: {
            "gram": gram_vectors(network.maps(batch.x)[:, chosen], orders)}, batch=128)
        found = gram_statistics(table["gram"], clean.targets, len(clean.classes))
        return cls(network, chosen, orders, bound, GramStatistics(*(part.to(run.device) for part in found)))

    def deviations(self, x: Images, labels: Int[Tensor, "b"] | None, run: Run) -> Float[Tensor, "b"]:
        """Of each image from the bounds of its label; None: of the class that the network predicts."""
        values = max(self.statistics.median[0].numel(), math.prod(self.network.shape))
        return torch.cat([self._of_part(x[part], None if labels is None else labels[part])
                          for part in run.chunks(len(x), values)])

    def _of_part(self, x: Images, labels: Int[Tensor, "b"] | None) -> Float[Tensor, "b"]:
        maps, output = self.network.both(x)
        vectors = gram_vectors(maps[:, self.chosen], self.orders)
        return self.statistics.deviations(vectors, output.argmax(1) if labels is None else labels, self.bound)
