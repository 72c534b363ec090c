"""AGPD: a data filter that looks where gradients of the labelled logit at the activations point.

Paper: Yuan, Zhang, Wei, Liu, Wu, "Activation Gradient based Poisoned Sample Detection Against Backdoor Attacks",
2023, arXiv:2312.06230.

At the output of each stage of the network the gradient is averaged over space. The paper finds the target class by the
dispersion of its rows (how much more they are like the mean of its clean samples than like the row that is least like
it), then removes rows one after the other until distributions agree. Ours ranks rows by how far they turn from the
clean mean. In networks of few stages directions differ little and by class, and that index points anywhere; so the unit
is the median of the clean samples' own turns, all stages count, and the index, of a class's largest dispersion in
any stage, raises it only beyond the paper's threshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.anomaly_index import anomaly_index
from sidedoor.algorithms.features.class_statistics import require_samples
from sidedoor.algorithms.features.cut import recorded, stages
from sidedoor.algorithms.inspection import inspection_model
from sidedoor.data.base import Dataset
from sidedoor.defenses.filters.base import GuidedFilter
from sidedoor.engine import Run
from sidedoor.method import Positive
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Build

LEAST = 1e-5
"""Smallest unit of turns: behind the last stage the gradient is often a constant of the label."""


@dataclass(frozen=True)
class AGPD(GuidedFilter):
    """Score rows by how far the gradient of their label's logit at activations turns from that of clean samples.

    Args:
        threshold: of the anomaly index of a class, beyond which its rows weigh more.

    Raises:
        NotApplicable: the network has no stage that gives maps, or a class has no clean sample.
    """

    inspects: ClassVar[bool] = True
    origins: ClassVar[dict[str, str]] = {"threshold": "paper: e squared"}

    threshold: Positive = math.e**2

    def score(self, train: Dataset, clean: Dataset, task: Task, build: Build, run: Run) -> Float[Tensor, "n"]:
        """Sum over stages of turns, in units of those of clean samples; about their number for a clean row."""
        require_samples(clean.targets, torch.unique(train.targets).tolist(),
                        "AGPD compares the rows of each with its clean ones")
        model = run.frozen(inspection_model(train, task, build, run))
        held, seen = (gradients(model, stages(model, train.shape), data, run) for data in (clean, train))
        parts = [turned(rows, train.targets, known, clean.targets) for rows, known in zip(seen, held, strict=True)]
        index = anomaly_index(-torch.stack([part.dispersion for part in parts]).amax(0))
        place = torch.unique(train.targets, return_inverse=True)[1]
        total = torch.stack([part.turn for part in parts]).sum(0)
        return (total * (index / self.threshold).clamp(min=1)[place]).float()


class Turned(NamedTuple):
    """What one stage says.

    Args:
        dispersion: of each class of the rows, in ascending order.
        turn: of each row, in units of the median of the clean samples of its label.
    """

    dispersion: Float[Tensor, "k"]
    turn: Float[Tensor, "n"]


def turned(rows: Float[Tensor, "n c"], labels: Int[Tensor, "n"], clean: Float[Tensor, "m c"],
           clean_labels: Int[Tensor, "m"]) -> Turned:
    """How far the gradients of rows point from the mean of clean ones of their label."""
    dispersion, turn = [], torch.zeros(len(rows), dtype=torch.double)
    for name in torch.unique(labels):
        own, known = rows[labels == name].double(), clean[clean_labels == name].double()
        likeness, usual = (functional.cosine_similarity(part, known.mean(0), dim=1) for part in (own, known))
        contrary = functional.cosine_similarity(own, own[likeness.argmin()], dim=1)
        dispersion.append((likeness - contrary).square().mean().sqrt())
        turn[labels == name] = (1 - likeness) / (1 - usual).quantile(0.5).clamp(min=LEAST)
    return Turned(torch.stack(dispersion), turn)


def gradients(model: nn.Module, names: Sequence[str], data: Dataset, run: Run) -> list[Float[Tensor, "n c"]]:
    """Of each named stage: the gradient of the labelled logit at its maps, averaged over space, for every row."""
    @torch.enable_grad()
    def rows(batch: Batch) -> dict[str, Tensor]:
        with recorded(model, names) as maps:
            logits = model(batch.x.detach().requires_grad_())
        found = torch.autograd.grad(logits.gather(1, batch.y[:, None]).sum(), [maps[name] for name in names])
        return {name: gradient.mean((2, 3)) for name, gradient in zip(names, found, strict=True)}

    table = run.per_sample(model, data, rows)
    return [table[name] for name in names]
