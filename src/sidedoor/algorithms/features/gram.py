"""Gram statistics: how products of the channels of an image's maps deviate from those of clean images of its class.

Paper: Ma, Wang, Sun, Xue, Wen, Xiang, "The 'Beatrix' Resurrections: Robust Backdoor Detection via Gram Matrices", NDSS
2023, arXiv:2209.11715.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sidedoor.errors import NotApplicable

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
    members = [vectors[labels == label] for label in range(classes)]
    empty = [str(label) for label, group in enumerate(members) if not len(group)]
    if empty:
        raise NotApplicable(f"no clean sample of class {', '.join(empty)}; Gram statistics need at least one of each")
    median = torch.stack([group.median(0).values for group in members])
    spread = torch.stack([(group - centre).abs().median(0).values
                          for group, centre in zip(members, median, strict=True)])
    return GramStatistics(median, spread)
