"""SPECTRE: a data filter that finds outliers along directions in which a robust covariance is exceeded.

Paper: Hayase, Kong, Somani, Oh, "SPECTRE: Defending Against Backdoor Attacks Using Robust Statistics", ICML 2021,
arXiv:2104.11315.

The features of a class, reduced to their main directions, are whitened by a covariance that outliers hardly move;
quantum entropy (QUE) scores weigh all directions in which the whitened rows vary more than they should. The paper
filters to get that covariance and is told the rate of poison. Ours takes the rows of smallest Mahalanobis distance,
again and again from all rows, as in the concentration steps of the minimum covariance determinant, and assumes that
poison is less than `trim` of a class. The number of directions is chosen as in the paper: by the mean score that is
left once a covariance of the unsuspected rows whitens all. Scores are relative to the median of their class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from sidedoor.algorithms.features.collect import collect
from sidedoor.algorithms.features.two_means import principal
from sidedoor.algorithms.inspection import inspection_model
from sidedoor.data.base import Dataset
from sidedoor.defenses.filters.base import DataFilter
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.method import Count, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Build

ROWS = 4
"""Fewest rows for each direction."""
STEPS = 50
"""Most concentration steps."""
LEAST = 1e-3
"""Least excess of the largest variance over 1, so that the sign of the exponent does not turn."""
Q = Float[Tensor, "k k"]


@dataclass(frozen=True)
class SPECTRE(DataFilter):
    """Score rows by their QUE score within their class, in units of its median.

    It finds poison that is a minority of its observed class; of one that is half of it the covariance is that of both.

    Args:
        directions: numbers of main directions to choose from; a class has at most a quarter as many as rows.
        alpha: of QUE; 0 weighs all directions alike, larger values those of the largest variance.
        trim: share of a class that may be outliers, below 1.

    Raises:
        ConfigError: no numbers of directions, or a `trim` of 1.
    """

    inspects: ClassVar[bool] = True
    origins: ClassVar[dict[str, str]] = {
        "directions": "ours: powers of two within the release's 2 to 100", "alpha": "release",
        "trim": "ours: the paper is told the rate of poison",
    }

    directions: tuple[Count, ...] = (2, 4, 8, 16, 32)
    alpha: Positive = 4.0
    trim: Share = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.directions or self.trim == 1:
            raise ConfigError(f"directions = {self.directions} and trim = {self.trim} given; expected at least one "
                              "number of directions, and a trim below 1")

    def score(self, train: Dataset, task: Task, build: Build, run: Run) -> Float[Tensor, "n"]:
        """QUE score over its median, less 1; 0 in classes of too few rows."""
        _, features, labels = collect(inspection_model(train, task, build, run), train, run)
        scores = torch.zeros(len(train))
        for label in torch.unique(labels):
            members = labels == label
            scores[members] = self.within(features[members].double()).float()
        return scores

    def within(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
        """Scores of the rows of one class."""
        points = principal(features, min(max(self.directions), len(features) // ROWS))
        points = points[:, points.norm(dim=0) > 1e-6 * features.norm()]
        counts = sorted({min(count, points.shape[1]) for count in self.directions} - {0})
        if not counts:
            return torch.zeros(len(features), dtype=features.dtype)
        found = [que(points[:, :count], *concentrated(points[:, :count], self.trim), self.alpha) for count in counts]
        best = max(found, key=lambda scores: self._left(points, scores))
        return best / best.median() - 1

    def _left(self, points: Float[Tensor, "n k"], scores: Float[Tensor, "n"]) -> float:
        """The mean score of all rows, whitened by those of which the scores are low."""
        rest = points[scores.argsort()[: _kept(points, self.trim)]]
        return que(points, rest.mean(0), _covariance(rest), self.alpha).mean().item()


def que(points: Float[Tensor, "n k"], mean: Float[Tensor, "k"], covariance: Q, alpha: float) -> Float[Tensor, "n"]:
    """Scores x' M x / tr M of whitened rows x with the covariance S, where M = exp(alpha (S - 1) / (|S| - 1))."""
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (points - mean).T, upper=False).T
    varied = white.T @ white / len(white)
    excess = (torch.linalg.eigvalsh(varied)[-1] - 1).clamp(min=LEAST)
    # Less the exponent's largest eigenvalue, which the trace divides out: it may be huge where the excess is small.
    one = torch.eye(len(varied), dtype=varied.dtype)
    exponent = alpha * (varied - one) / excess
    weights = torch.linalg.matrix_exp(exponent - torch.linalg.eigvalsh(exponent)[-1] * one)
    found: Tensor = ((white @ weights) * white).sum(1) / weights.trace()
    return found


def concentrated(points: Float[Tensor, "n k"], trim: float) -> tuple[Float[Tensor, "k"], Q]:
    """Mean and covariance of the rows that are nearest to them, reached from those of all.

    The covariance is scaled so that the median squared distance is that of normally distributed rows.
    """
    kept = torch.arange(len(points))
    for _ in range(STEPS):
        mean, covariance = points[kept].mean(0), _covariance(points[kept])
        distance = ((points - mean) @ torch.linalg.inv(covariance) * (points - mean)).sum(1)
        before, kept = kept, distance.argsort()[: _kept(points, trim)].sort().values
        if torch.equal(before, kept):
            break
    return mean, covariance * distance.median() / float(stats.chi2.ppf(0.5, points.shape[1]))


def _kept(points: Float[Tensor, "n k"], trim: float) -> int:
    """Rows that are no outliers: more than there are directions, so that they have a covariance."""
    return min(len(points), max(points.shape[1] + 1, round((1 - trim) * len(points))))


def _covariance(points: Float[Tensor, "n k"]) -> Q:
    centred = points - points.mean(0)
    found = centred.T @ centred / len(points)
    return found + 1e-9 * found.trace() * torch.eye(len(found), dtype=found.dtype)
