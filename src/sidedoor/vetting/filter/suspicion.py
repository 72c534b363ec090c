"""Which rows of a data set filters suspect, and how they fall in groups within their class."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sidedoor import registry
from sidedoor.algorithms.features.two_means import principal, two_means
from sidedoor.data.base import Dataset
from sidedoor.defenses.filters.base import GuidedFilter
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.tasks.task import Task
from sidedoor.types import Build

FILTERS = ("activation_clustering", "spectral_signatures", "flare", "spectre")
"""Always. ABL's loss is not among them: of few poisoned rows it is the last to fall, and on digits it ranks them below
the clean rows of their class at every rate from 1 % to 10 %.
"""
GUIDED = ("scan_filter", "mahalanobis_filter")
"""Where there are clean images."""
SHARES = (0.05, 0.15, 0.35)
"""Of a class, with which groups begin."""
SMALLEST, LARGEST = 5, 0.6
"""Rows of a group, and the largest share of its class."""
COMPONENTS = 10
"""Main directions of the features of a class in which groups are made tidy."""
RIDGE = 1e-2
STEPS = 20

Group = Bool[Tensor, "k"]


class Scored(NamedTuple):
    """What a filter says of all rows, or why it says nothing."""

    name: str
    scores: Float[Tensor, "n"] | None
    seconds: float
    reason: str = ""


def scored(data: Dataset, clean: Dataset | None, task: Task, build: Build, run: Run) -> tuple[Scored, ...]:
    """The scores of the battery, one after the other on one inspection model."""
    names = FILTERS + (GUIDED if clean is not None else ())
    with run.progress.task("filters", len(names)) as advance:
        found = []
        for name in names:
            found.append(_scored(name, data, clean, task, build, run))
            advance(1, name)
    return tuple(found)


def _scored(name: str, data: Dataset, clean: Dataset | None, task: Task, build: Build, run: Run) -> Scored:
    method, start = registry.make("defense", name), time.monotonic()
    beside = () if clean is None or not isinstance(method, GuidedFilter) else (clean,)
    try:
        scores: Tensor = method.score(data, *beside, task, build, run)
    except NotApplicable as refusal:
        return Scored(name, None, time.monotonic() - start, str(refusal))
    return Scored(name, scores.nan_to_num(), time.monotonic() - start)


def place(scores: Float[Tensor, "k"]) -> Float[Tensor, "k"]:
    """The share of rows that score lower; equal scores have equal places."""
    _, level, count = torch.unique(scores, return_inverse=True, return_counts=True)
    places: Tensor = (count.cumsum(0) - count + (count - 1) / 2)[level]
    return places / max(1, len(scores) - 1)


def suspicion(filters: Sequence[Scored], labels: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Mean place of each row within its class over the filters that ran, in [0, 1]."""
    total = torch.zeros(len(labels))
    ran = [each.scores for each in filters if each.scores is not None]
    for label in torch.unique(labels):
        members = labels == label
        total[members] = torch.stack([place(scores[members]) for scores in ran]).mean(0)
    return total


def groups(features: Float[Tensor, "k d"], scores: Mapping[str, Float[Tensor, "k"]]) -> list[Group]:
    """Groups of a class's rows that may be poison, each different from the others.

    Args:
        scores: of several filters; the highest by each and by all together are what groups begin with.
    """
    seeds = []
    for name, values in scores.items():
        if name == "activation_clustering":
            seeds.append(values > values.max() / 2)
        else:
            seeds += [_highest(values, share) for share in SHARES]
    mean = torch.stack([place(values) for values in scores.values()]).mean(0)
    seeds += [_highest(mean, share) for share in SHARES]
    points = principal(features.double(), COMPONENTS)
    found: dict[bytes, Group] = {}
    for seed in [_tidy(points, seed) for seed in seeds if sized(seed)] + seeds[-len(SHARES):]:
        if sized(seed):
            found.setdefault(seed.numpy().tobytes(), seed)
    return list(found.values())


def explaining(found: Sequence[Group], suspicion: Float[Tensor, "k"]) -> Group:
    """The group that says most of how suspicious the rows of a class are: the highest correlation with it."""
    centred = suspicion - suspicion.mean()
    return max(found, key=lambda group: float((centred * group).sum() / (group.sum() * (~group).sum()) ** 0.5))


def _highest(scores: Float[Tensor, "k"], share: float) -> Group:
    chosen = torch.zeros(len(scores), dtype=torch.bool)
    chosen[scores.argsort(descending=True, stable=True)[: max(SMALLEST, round(share * len(scores)))]] = True
    return chosen


def sized(group: Group) -> bool:
    """Whether it is neither a few rows nor most of its class."""
    return SMALLEST <= int(group.sum()) <= LARGEST * len(group)


def _tidy(points: Float[Tensor, "k d"], group: Group) -> Group:
    """The group and the rest as two clusters along Fisher's discriminant between them, until nothing changes."""
    for _ in range(STEPS):
        if not group.any() or group.all():
            break
        one, other = points[group], points[~group]
        within = ((one - one.mean(0)).T @ (one - one.mean(0)) + (other - other.mean(0)).T @ (other - other.mean(0)))
        within = within / len(points)
        within += (RIDGE * within.trace() / len(within)).clamp(min=1e-12) * torch.eye(len(within), dtype=within.dtype)
        along = points @ torch.linalg.solve(within, one.mean(0) - other.mean(0))
        new = two_means(along[:, None])
        if not new.any():
            break
        new = new if along[new].mean() > along[~new].mean() else ~new
        before, group = group, new
        if torch.equal(before, group):
            break
    return group
