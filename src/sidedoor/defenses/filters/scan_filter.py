"""SCAn: a data filter that asks for which class two groups of features explain its rows better than one.

Paper: Tang, Wang, Tang, Zhang, "Demon in the Variant: Statistical Analysis of DNNs for Robust Backdoor Contamination
Detection", USENIX Security 2021, arXiv:1908.00686.

Features are a mean of their class plus noise of one covariance for all classes; both covariances are fitted to clean
features by expectation maximisation. The rows of each class, clean ones among them, are split in two in the metric of
the noise, and the gain in likelihood is compared with that of the other classes. Ours starts the split at either side
of the mean along the main direction, where the ports draw it, and counts only gains above the median (the paper takes
the absolute distance, by which a class more compact than the others is suspected too). The paper removes one group of
each class whose index passes exp(2) = 7.39; ours ranks rows: by how much nearer they lie to the group with fewer clean
rows, times the index of their class (its softplus, so that rows of unsuspected classes keep their order).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from sidedoor.algorithms.anomaly_index import anomaly_index
from sidedoor.algorithms.features.collect import collect
from sidedoor.algorithms.features.two_means import two_means
from sidedoor.algorithms.inspection import inspection_model
from sidedoor.data.base import Dataset
from sidedoor.defenses.filters.base import GuidedFilter
from sidedoor.engine import Run
from sidedoor.method import Count, Positive
from sidedoor.tasks.task import Task
from sidedoor.types import Build

FEWEST = 10
"""Rows of a class, below which nothing is said of it."""


@dataclass(frozen=True)
class SCAn(GuidedFilter):
    """Score rows by their group within their class, times how far the class is better explained by two groups.

    Args:
        steps: most steps of expectation maximisation.
        tolerance: largest relative change of the noise's covariance at which it stops.
        ridge: added to the noise's covariance, as a share of its mean variance.
    """

    inspects: ClassVar[bool] = True
    origins: ClassVar[dict[str, str]] = {
        "steps": "release: as in the ports", "tolerance": "release: as in the ports",
        "ridge": "ours: fewer clean samples than features leave directions without variance",
    }

    steps: Count = 100
    tolerance: Positive = 1e-5
    ridge: Positive = 1e-4

    def score(self, train: Dataset, clean: Dataset, task: Task, build: Build, run: Run) -> Float[Tensor, "n"]:
        """Index of the class times the advantage of the suspected group; above 0 in it, 0 in classes of few rows."""
        model = inspection_model(train, task, build, run)
        seen, held = collect(model, train, run), collect(model, clean, run)
        noise = noise_covariance(held.features.double(), held.labels, self.steps, self.tolerance, self.ridge)
        whiten = torch.linalg.cholesky(noise)
        rows, known = (torch.linalg.solve_triangular(whiten, part.features.double().T, upper=False).T
                       for part in (seen, held))
        return scores(rows, seen.labels, known, held.labels).float()


class Split(NamedTuple):
    """How the rows of a class fall in two groups.

    Args:
        gain: mean difference of squared distances to the one mean and to that of the row's group.
        advantage: of each row, by how much nearer it is to the mean of the suspected group than to the other.
    """

    gain: Float[Tensor, ""]
    advantage: Float[Tensor, "n"]


def scores(rows: Float[Tensor, "n d"], labels: Int[Tensor, "n"], clean: Float[Tensor, "m d"],
           clean_labels: Int[Tensor, "m"]) -> Float[Tensor, "n"]:
    """Scores of rows from features in which the noise is white."""
    found = torch.zeros(len(rows), dtype=rows.dtype)
    judged = [label for label in torch.unique(labels) if (labels == label).sum() >= FEWEST]
    splits = [split(rows[labels == label], clean[clean_labels == label]) for label in judged]
    if splits:
        index = anomaly_index(-torch.stack([part.gain for part in splits]))
        for label, weight, part in zip(judged, functional.softplus(index), splits, strict=True):
            found[labels == label] = weight * part.advantage
    return found


def split(rows: Float[Tensor, "n d"], clean: Float[Tensor, "m d"]) -> Split:
    """Split the rows of a class, with its clean ones, into two groups; the one with fewer clean rows is suspected."""
    points = torch.cat([rows, clean])
    group = suspected(two_means(points), len(rows))
    if not group.any():
        return Split(points.new_zeros(()), points.new_zeros(len(rows)))
    means = torch.stack([points[~group].mean(0), points[group].mean(0)])
    one = (points - points.mean(0)).square().sum(1)
    two = (points[:, None] - means).square().sum(2)
    return Split((one - two.gather(1, group.long()[:, None])[:, 0]).mean(), (two[:, 0] - two[:, 1])[: len(rows)])


def suspected(group: Bool[Tensor, "n"], rows: int) -> Bool[Tensor, "n"]:
    """Which of the points are in the group with fewer clean ones, which follow the rows; if equal, the smaller one."""
    clean = group[rows:].double().mean() if len(group) > rows else group.new_full((), 0.5, dtype=torch.double)
    share = group.double().mean() if clean == 0.5 else clean
    return group if share <= 0.5 else ~group


def noise_covariance(features: Float[Tensor, "n d"], labels: Int[Tensor, "n"], steps: int, tolerance: float,
                     ridge: float) -> Float[Tensor, "d d"]:
    """The covariance of features around the mean of their class, where these means are normally distributed too.

    Expectation maximisation in coordinates in which the noise is white and the covariance of the means is diagonal.
    """
    names, place, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    centred, m = features - features.mean(0), counts.double()[:, None]
    means = torch.zeros(len(names), centred.shape[1], dtype=centred.dtype).index_add(0, place, centred) / m
    scatter = (centred - means[place]).T @ (centred - means[place])
    noise, between = scatter / len(features), means.T @ means / len(names)
    for _ in range(steps):
        before = noise
        basis, variance = _diagonalised(_ridged(noise, ridge), between)
        own = torch.linalg.solve(basis, means.T).T
        expected, spread = own * variance / (variance + 1 / m), variance / (1 + m * variance)
        left = m.sqrt() * (own - expected)
        between = basis @ (expected.T @ expected + torch.diag(spread.sum(0))) @ basis.T / len(names)
        noise = (scatter + basis @ (left.T @ left + torch.diag((m * spread).sum(0))) @ basis.T) / len(features)
        if (noise - before).norm() <= tolerance * before.norm():
            break
    return _ridged(noise, ridge)


def _diagonalised(noise: Float[Tensor, "d d"], between: Float[Tensor, "d d"]) \
        -> tuple[Float[Tensor, "d d"], Float[Tensor, "d"]]:
    """A basis B and variances v such that the noise is B Bᵀ and the other covariance B diag(v) Bᵀ."""
    lower = torch.linalg.cholesky(noise)
    half = torch.linalg.solve_triangular(lower, between, upper=False)
    variance, axes = torch.linalg.eigh(torch.linalg.solve_triangular(lower, half.T, upper=False))
    return lower @ axes, variance.clamp(min=0)


def _ridged(covariance: Float[Tensor, "d d"], ridge: float) -> Float[Tensor, "d d"]:
    size = len(covariance)
    added = (ridge * covariance.trace() / size).clamp(min=1e-12)
    return covariance + added * torch.eye(size, dtype=covariance.dtype)
