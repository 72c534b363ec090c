"""Activation clustering: a data filter that splits the features of each class into two clusters.

Paper: Chen, Carvalho, Baracaldo, Ludwig, Edwards, Lee, Molloy, Srivastava, "Detecting Backdoor Attacks on Deep Neural
Networks by Activation Clustering", SafeAI at AAAI 2019, arXiv:1811.03728.

The paper reduces features to ten independent components. These are principal components scaled to unit variance, then
rotated, and neither two-means nor the silhouette sees a rotation: ours leaves it out, and needs no random start. The
paper judges a class by the size of its smaller cluster, by the silhouette, or by training again without the cluster;
the ports compute the silhouette and ignore it, so that every class that falls in unequal halves loses the smaller one.
In ours the silhouette ranks classes, and the smaller cluster is suspected; no size is too large. Scores are not
standardised within classes, which would erase that evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sidedoor.algorithms.features.collect import collect
from sidedoor.algorithms.features.two_means import principal, two_means
from sidedoor.algorithms.inspection import inspection_model
from sidedoor.data.base import Dataset
from sidedoor.defenses.filters.base import DataFilter
from sidedoor.engine import Run
from sidedoor.method import Count
from sidedoor.tasks.task import Task
from sidedoor.types import Build

FEWEST = 10
"""Rows of a class, below which nothing is said of it."""
JUDGED = 1000
"""Most rows that the silhouette is taken of, at equal steps."""
NUDGE = 1e-3
"""Weight of the place between the clusters, which orders the rows of one."""


@dataclass(frozen=True)
class ActivationClustering(DataFilter):
    """Score the smaller cluster of each class by the silhouette of its two clusters.

    It suspects the clean rows of a class that is poisoned by more than half, and finds little where poison is a few
    hundredths of its class, which then splits along something else.

    Args:
        components: of the features of a class, by variance.
    """

    inspects: ClassVar[bool] = True
    origins: ClassVar[dict[str, str]] = {"components": "paper: section 4"}

    components: Count = 10

    def score(self, train: Dataset, task: Task, build: Build, run: Run) -> Float[Tensor, "n"]:
        """The silhouette in smaller clusters, about 0 elsewhere; 0 in classes of few rows."""
        _, features, labels = collect(inspection_model(train, task, build, run), train, run)
        scores = torch.zeros(len(train))
        for label in torch.unique(labels):
            members = labels == label
            if members.sum() >= FEWEST:
                scores[members] = clustered(features[members].double(), self.components).float()
        return scores


def clustered(features: Float[Tensor, "n d"], components: int) -> Float[Tensor, "n"]:
    """Scores of the rows of one class; 0 where all are equal."""
    points = principal(features, components)
    length = points.norm(dim=0)
    points = points[:, length > 1e-6 * length.max().clamp(min=1e-6)]
    if points.shape[1] == 0:
        return torch.zeros(len(points), dtype=points.dtype)
    points = points / points.std(0)
    smaller = two_means(points)
    smaller = smaller if 2 * smaller.sum() <= len(smaller) else ~smaller
    centre, other = points[smaller].mean(0), points[~smaller].mean(0)
    place = (points - (centre + other) / 2) @ (centre - other) / (centre - other).square().sum()
    return silhouette(points, smaller) * smaller + NUDGE * place


def silhouette(points: Float[Tensor, "n d"], group: Bool[Tensor, "n"]) -> float:
    """Mean of (b - a) / max(a, b), a and b the mean distances to a point's own and to the other group (Rousseeuw 1987);
    0 for a point alone in its group.
    """
    step = -(-len(points) // JUDGED)
    points, group = points[::step], group[::step]
    distance = torch.cdist(points, points)
    same = group[:, None] == group
    own = (distance * same).sum(1) / (same.sum(1) - 1).clamp(min=1)
    other = (distance * ~same).sum(1) / (~same).sum(1).clamp(min=1)
    value = torch.where(same.sum(1) > 1, (other - own) / torch.maximum(own, other).clamp(min=1e-12), 0.0)
    return value.mean().item()
