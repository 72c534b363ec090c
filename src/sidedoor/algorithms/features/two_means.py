"""Two-means: k-means with two centres and a start that needs no random numbers."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

STEPS = 100
"""Most steps of Lloyd's algorithm; it stops where no point changes its group."""


def two_means(points: Float[Tensor, "n d"]) -> Bool[Tensor, "n"]:
    """Which of two groups each point is in, from a start at either side of the mean along the main direction.

    No point is in the second group where all are equal.
    """
    group = principal(points, 1)[:, 0] > 0
    for _ in range(STEPS):
        if not group.any() or group.all():
            break
        before, group = group, _nearer(points, points[~group].mean(0), points[group].mean(0))
        if torch.equal(before, group):
            break
    return group


def principal(points: Float[Tensor, "n d"], count: int) -> Float[Tensor, "n k"]:
    """Centred points along their directions of largest variance, at most `count` of them, largest first."""
    centred = points - points.mean(0)
    left, length, _ = torch.linalg.svd(centred, full_matrices=False)
    projected: Tensor = left[:, :count] * length[:count]
    return projected


def _nearer(points: Float[Tensor, "n d"], first: Float[Tensor, "d"], second: Float[Tensor, "d"]) -> Bool[Tensor, "n"]:
    """Which points are nearer to the second centre than to the first."""
    return (points - (first + second) / 2) @ (second - first) > 0
