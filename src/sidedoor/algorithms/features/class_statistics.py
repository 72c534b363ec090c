"""Means of classes and the covariance that they share, for distances that no single feature dominates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sidedoor.errors import NotApplicable

RIDGE = 1e-4
"""What is added to the shared covariance, as a share of its mean variance: of a few samples it is singular."""


class ClassStatistics(NamedTuple):
    """Of k classes of feature vectors.

    Args:
        means: of each class.
        whiten: the shared within-class covariance is the identity after multiplication with it.
    """

    means: Float[Tensor, "k d"]
    whiten: Float[Tensor, "d d"]

    def distances(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Squared Mahalanobis distances of feature vectors to the mean of each class."""
        placed = (features.double() - self.means.mean(0)) @ self.whiten
        means = (self.means - self.means.mean(0)) @ self.whiten
        return torch.cdist(placed, means, compute_mode="donot_use_mm_for_euclid_dist").square()


def require_samples(labels: Int[Tensor, "n"], classes: Iterable[int], why: str) -> None:
    """That there is a clean sample of every class.

    Args:
        labels: of the clean samples.
        why: they are needed, for the message.

    Raises:
        NotApplicable: there is a class without.
    """
    known = set(labels.tolist())
    if empty := [str(label) for label in classes if label not in known]:
        raise NotApplicable(f"no clean sample of class {', '.join(empty)}; {why}")


def class_statistics(features: Float[Tensor, "n d"], labels: Int[Tensor, "n"], classes: int) -> ClassStatistics:
    """The statistics in double precision; the covariance is that of all samples about their class's mean.

    Raises:
        NotApplicable: a class without a sample.
    """
    features, counts = features.double(), torch.bincount(labels, minlength=classes)
    require_samples(labels, range(classes), "statistics of classes need at least one of each")
    means = torch.zeros(classes, features.shape[1], dtype=features.dtype).index_add_(0, labels, features)
    means = means / counts[:, None]
    offset = features - means[labels]
    covariance = offset.T @ offset / len(features)
    variance, axes = torch.linalg.eigh(covariance)
    ridge = RIDGE * variance.mean().clamp(min=1e-12)
    return ClassStatistics(means, axes / (variance.clamp(min=0) + ridge).sqrt())
