"""Two-means: k-means with two centres and starts that need no random numbers."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

STARTS = 10
"""Directions along which points are first split; the best result of Lloyd's algorithm counts."""
STEPS = 100
"""Most steps of Lloyd's algorithm; it stops where no point changes its group."""


def two_means(points: Float[Tensor, "n d"]) -> Bool[Tensor, "n"]:
    """Which of two groups each point is in, the best result of starts at either side of the mean along each of the
    directions of largest variance.

    No point is in the second group where all are equal.
    """
    starts = principal(points, STARTS).T > 0
    groups = [_lloyd(points, start) for start in starts]
    return min(groups, key=lambda group: _spread(points, group))


def principal(points: Float[Tensor, "n d"], count: int) -> Float[Tensor, "n k"]:
    """Centred points along their directions of largest variance, at most `count` of them, largest first."""
    centred = points - points.mean(0)
    left, length, _ = torch.linalg.svd(centred, full_matrices=False)
    projected: Tensor = left[:, :count] * length[:count]
    return projected


def _lloyd(points: Float[Tensor, "n d"], group: Bool[Tensor, "n"]) -> Bool[Tensor, "n"]:
    """Groups whose points are nearest to their own mean, reached from given ones."""
    for _ in range(STEPS):
        if not group.any() or group.all():
            break
        first, second = points[~group].mean(0), points[group].mean(0)
        before, group = group, (points - (first + second) / 2) @ (second - first) > 0
        if torch.equal(before, group):
            break
    return group


def _spread(points: Float[Tensor, "n d"], group: Bool[Tensor, "n"]) -> float:
    """Sum of the squared distances of points to the mean of their group."""
    return sum((part - part.mean(0)).square().sum().item() for part in (points[group], points[~group]) if len(part))
