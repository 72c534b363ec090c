"""FLARE: a data filter that looks in every layer for the least likely activation of a row, and clusters the rows.

Paper: Hou, Luo, Hua, Chen, Zhang, Li, "FLARE: Towards Universal Dataset Purification against Backdoor Attacks", IEEE
TIFS 2025, arXiv:2411.19479.

A row is described by the lowest density, for every batch normalisation, of the values that enter it, under its running
mean and variance. HDBSCAN tells rows apart; the largest cluster is clean, all others and what is in none are not. Ours
is the plain form: the paper reduces descriptions by UMAP and drops last layers until the split is stable, ours scales
each layer by median and median absolute deviation and keeps five principal components. Where membership is equal, or no
cluster is found, the distance from the median row decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sidedoor.algorithms.features.two_means import principal
from sidedoor.algorithms.inspection import inspection_model
from sidedoor.data.base import Dataset
from sidedoor.defenses.filters.base import DataFilter
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.method import Count
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Build

NUDGE = 1e-3
"""Weight of the distance from the median row."""


@dataclass(frozen=True)
class FLARE(DataFilter):
    """Score rows by how little they belong to the largest cluster of least likely activations.

    Clusters are of all classes together, so that a trigger counts whatever its rows are labelled as. A trigger that is
    all over the image and faint makes no activation unlikely, and is hardly found.

    Args:
        smallest: rows of a cluster; at most a twentieth of the data.
        components: of the descriptions.

    Raises:
        NotApplicable: the network has no batch normalisation with running statistics.
    """

    inspects: ClassVar[bool] = True
    origins: ClassVar[dict[str, str]] = {
        "smallest": "ours: the release's 100 are for 50,000 rows",
        "components": "ours: in place of UMAP's two dimensions",
    }

    smallest: Count = 20
    components: Count = 5

    def score(self, train: Dataset, task: Task, build: Build, run: Run) -> Float[Tensor, "n"]:
        """1 less the membership in the largest cluster, and up to a thousandth for the distance from the median."""
        model = run.frozen(inspection_model(train, task, build, run))
        return apart(least_likely(model, train, run), self.smallest, self.components).float()


def least_likely(model: nn.Module, data: Dataset, run: Run) -> Float[Tensor, "n layers"]:
    """The lowest log density of a value that enters each batch normalisation."""
    layers = [part for part in model.modules() if isinstance(part, _BatchNorm) and part.running_var is not None]
    if not layers:
        raise NotApplicable(f"{type(model).__name__} has no batch normalisation with running statistics, by which "
                            "FLARE judges activations")
    found: dict[nn.Module, Tensor] = {}

    def look(layer: nn.Module, given: Sequence[Any]) -> None:
        found[layer] = _log_density(layer, given[0]).flatten(1).amin(1)

    def rows(batch: Batch) -> dict[str, Tensor]:
        model(batch.x)
        return {"lowest": torch.stack([found[layer] for layer in layers], 1)}

    handles = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        return run.per_sample(model, data, rows)["lowest"]
    finally:
        for handle in handles:
            handle.remove()


def apart(descriptions: Float[Tensor, "n layers"], smallest: int, components: int) -> Float[Tensor, "n"]:
    """1 less the membership of each row in the largest cluster."""
    from sklearn.cluster import HDBSCAN

    offset = descriptions.double() - descriptions.double().quantile(0.5, 0)
    scaled = offset / offset.abs().quantile(0.5, 0).clamp(min=1e-12)
    distance = scaled.norm(dim=1)
    found = HDBSCAN(min_cluster_size=max(2, min(smallest, len(scaled) // 20)), copy=True)
    found.fit(principal(scaled, components).numpy())
    labels, strength = torch.as_tensor(found.labels_), torch.as_tensor(found.probabilities_)
    clustered = labels >= 0
    largest = torch.bincount(labels[clustered]).argmax() if clustered.any() else -1
    member = torch.where(clustered & (labels == largest), strength, 0.0)
    score: Tensor = 1 - member + NUDGE * distance / (1 + distance)
    return score


def _log_density(layer: Any, x: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c ..."]:
    """Of values under the normal distribution that a batch normalisation holds for each channel."""
    shape = (1, -1, *[1] * (x.ndim - 2))
    mean, variance = (layer.get_buffer(name).reshape(shape) for name in ("running_mean", "running_var"))
    variance = variance + layer.eps
    density: Tensor = -((x.float() - mean).square() / variance + variance.log() + math.log(2 * math.pi)) / 2
    return density
