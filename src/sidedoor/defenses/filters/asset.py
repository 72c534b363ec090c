"""ASSET: a data filter that trains a model to do well on clean samples and badly on rows unlike them.

Paper: Pan, Zeng, Lyu, Lin, Jia, "ASSET: Robust Backdoor Data Detection Across a Multiplicity of Deep Learning
Paradigms", USENIX Security 2023, arXiv:2302.11408.

The loss of clean samples is lowered and that of suspicious rows raised; clean rows follow the clean samples, and only
poisoned ones are left with a high loss. Which rows are suspicious an inner loop says: a small network learns to tell
the features of rows from those of clean samples, and rows that stand out by its answer count. The paper does so anew
for each batch. Of few rows, with one or two poisoned among them, such a network tells any from any, so ours does it for
all rows at once, before each round. The raised loss has no bound, and hardly a gradient where a row fits well; ours
lowers -log(1 - p) of the row's label instead, which pushes the same way. Rows stand out by median and median absolute
deviation, not by the medcouple of the paper's adjusted outlyingness. Clean samples count by their loss, as in the
paper; in a reimplementation by the variance of their logits.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.features.collect import collect
from sidedoor.algorithms.inspection import inspection_model
from sidedoor.algorithms.splits import row_losses
from sidedoor.data.base import Dataset
from sidedoor.defenses.filters.base import GuidedFilter
from sidedoor.engine import Objective, Run
from sidedoor.method import Count, Positive
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Build, joined

MAD = 1.4826
"""The standard deviation of a normal distribution over its median absolute deviation."""


@dataclass(frozen=True)
class ASSET(GuidedFilter):
    """Score rows by their loss under a model that was pulled towards clean samples and away from rows unlike them.

    Args:
        rounds: of finding rows unlike clean samples, and a pass over all rows.
        batch: rows a step, and as many clean samples beside them.
        lr: of Adam.
        inner_steps: of the network that tells rows from clean samples, by Adam.
        width: of its two hidden layers.
        outlying: standard deviations from the median answer beyond which a row is suspicious.
    """

    inspects: ClassVar[bool] = True
    origins: ClassVar[dict[str, str]] = {
        "rounds": "release: 5", "batch": "ours: as victims are trained", "width": "release", "outlying": "release",
        "lr": "ours: the release's 1e-4 is for many more steps",
        "inner_steps": "ours: by the release's 100 it knows single samples",
    }
    quick: ClassVar[dict[str, Any]] = {"rounds": 2}

    rounds: Count = 5
    batch: Count = 128
    lr: Positive = 1e-3
    inner_steps: Count = 30
    width: Count = 128
    outlying: Positive = 2.0

    def score(self, train: Dataset, clean: Dataset, task: Task, build: Build, run: Run) -> Float[Tensor, "n"]:
        """The loss of each row, at least 0."""
        model = copy.deepcopy(inspection_model(train, task, build, run))
        recipe = replace(run.recipe, optimizer="adam", momentum=0.9, lr=self.lr, weight_decay=0.0, schedule="constant",
                         patience=0, epochs=1, batch=min(self.batch, len(train)))
        for number in range(self.rounds):
            own = run.within(f"round-{number}")
            known, rows = (collect(model, data, own).features for data in (clean, train))
            network = own.build(functools.partial(self.network, known.shape[1]))
            marked = unlike(known, rows, network, self.inner_steps) > self.outlying
            model = own.fit(model, train, Offset(clean, train, marked), name="offset", recipe=recipe)
        return row_losses(model, train, task, run)

    def network(self, features: int) -> nn.Module:
        """What tells features of rows from those of clean samples."""
        return nn.Sequential(nn.Linear(features, self.width), nn.ReLU(), nn.Linear(self.width, self.width), nn.ReLU(),
                             nn.Linear(self.width, 1))


@torch.enable_grad()
def unlike(known: Float[Tensor, "m d"], rows: Float[Tensor, "n d"], network: nn.Module, steps: int) \
        -> Float[Tensor, "n"]:
    """How far each row stands out by what a network answers that learned to tell rows from clean samples, in standard
    deviations of the rows; those which are like clean samples cannot be told from them, and stay near the median.
    """
    device = next(network.parameters()).device
    mean, spread = known.mean(0), known.std(0).clamp(min=1e-6)
    points = torch.cat([known, rows]).sub(mean).div(spread).to(device)
    truth = (torch.arange(len(points)) >= len(known)).to(device)
    weight = torch.where(truth, 0.5 / len(rows), 0.5 / len(known))
    leaves = [*network.parameters()]
    optimiser = torch.optim.Adam(leaves, lr=1e-3)
    for _ in range(steps):
        answer = network(points)[:, 0]
        loss = functional.binary_cross_entropy_with_logits(answer, truth.float(), weight, reduction="sum")
        for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
            leaf.grad = gradient
        optimiser.step()
    found = network(points)[len(known) :, 0].detach().cpu()
    offset = found - found.quantile(0.5)
    scaled: Tensor = offset / (MAD * offset.abs().quantile(0.5)).clamp(min=1e-12)
    return scaled


class Offset(Objective):
    """The loss of clean samples, and -log(1 - p) of the label of suspicious rows, each a mean.

    Args:
        data: the rows.
        suspicious: which of them.
    """

    suspicious: Tensor

    def __init__(self, clean: Dataset, data: Dataset, suspicious: Bool[Tensor, "n"]):
        super().__init__()
        self.clean = clean
        place = data.position(torch.arange(len(data)))
        flags = torch.zeros(int(place.max()) + 1, dtype=torch.bool)
        flags[place] = suspicious
        self.register_buffer("suspicious", flags)

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        clean = self.clean.fetch(torch.randint(len(self.clean), (len(batch.y),)), batch.x.device)
        x, y, _ = joined(clean, batch)
        logits = model(x).float()
        others = logits.scatter(1, y[:, None], -torch.inf).logsumexp(1)
        marked = self.suspicious[batch.index]
        raised = (logits.logsumexp(1) - others)[len(clean.y) :]
        known = functional.cross_entropy(logits[: len(clean.y)], clean.y)
        loss: Tensor = known + (raised * marked).sum() / marked.sum().clamp(min=1)
        return loss[None]
