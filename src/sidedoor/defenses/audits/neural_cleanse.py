"""Neural Cleanse: a model audit that reconstructs every class's smallest trigger and flags an outlier among them.

Paper: Wang, Yao, Shan, Li, Viswanath, Zheng, Zhao, "Neural Cleanse: Identifying and Mitigating Backdoor Attacks in
Neural Networks", IEEE Symposium on Security and Privacy 2019.

Ours optimises all classes at once on the same images rather than one after another on images of their own; in
evaluation mode they do not influence each other, and a class that has converged is dropped. Where the clean data have
fewer than `samples` images, an epoch is one pass over them. A class for which no mask reached the success rate counts
with the whole image as its mask, so it is never the suspicious one. Where the median absolute deviation is zero, the
mean absolute deviation scales the index (Iglewicz and Hoaglin 1993).

The index needs three classes or more, and masks for more than half of them. Of two numbers the smaller always lies
0.67 robust deviations below the median. Where half of the classes or more have no mask, the median, or the deviation
from it, is the size of the image: one mask among K classes then has the index K / 1.25, however large it is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.data.base import Dataset
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.errors import ConfigError, NotApplicable
from sidedoor.evidence import Exhibit, Finding, Rule
from sidedoor.method import Count, NonNegative, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Images

VALUES = {"cpu": 2**17}
"""Most pixel values in one forward pass by kind of device, 2**20 on others; one class's batch may have more."""


@dataclass(frozen=True)
class NeuralCleanse(ModelAudit):
    """Minimise cross-entropy towards a class plus a cost times the L1 norm of the mask, for every class.

    The cost starts at 0. After `patience` epochs of success it becomes `cost`, and after every further `patience`
    epochs of success it is multiplied by `raising`; after `patience` epochs without success it is divided by
    `lowering`.

    Args:
        epochs: most epochs per class.
        samples: clean images per epoch.
        batch: clean images per step; every class sees all of them.
        lr: of Adam with betas (0.5, 0.9).
        cost: first cost of the mask's norm that is not 0.
        raising: factor of the cost, above 1.
        lowering: divisor of the cost, above 1.
        success: share of an epoch's images that a mask must lead to its class to count.
        patience: epochs before the cost changes.
        stopping: epochs without a smaller mask before a class is finished, once its cost went up and down.
        threshold: anomaly index above which the model counts as backdoored.

    Raises:
        ConfigError: `raising` or `lowering` is not above 1.
    """

    origins: ClassVar[dict[str, str]] = {
        "epochs": "release", "samples": "release", "batch": "release", "lr": "release", "cost": "release",
        "raising": "release", "lowering": "release", "success": "paper: over 99 % of the images",
        "patience": "release", "stopping": "release", "threshold": "paper: an outlier with a probability over 95 %",
    }
    version: ClassVar[int] = 2
    quick: ClassVar[dict[str, Any]] = {"epochs": 10, "samples": 32, "batch": 8}
    needs: ClassVar[Needs] = Needs(model="gradients", clean="images")

    epochs: Count = 1000
    samples: Count = 1000
    batch: Count = 32
    lr: Positive = 0.1
    cost: Positive = 1e-3
    raising: Positive = 2.0
    lowering: Positive = 2.0**1.5
    success: Share = 0.99
    patience: Count = 5
    stopping: Count = 25
    threshold: NonNegative = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.raising, self.lowering) <= 1:
            raise ConfigError(f"raising = {self.raising} and lowering = {self.lowering} given; expected both above 1")

    def inspect(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Finding:
        """The largest anomaly index of a class, that of the smallest mask; `per_class` has one for each.

        A class is suspected if it passes the threshold. The exhibits are those of the class with the smallest mask,
        whether or not it does.

        Raises:
            NotApplicable: fewer than three classes, or masks for half of them or fewer.
        """
        if task.classes < 3:
            raise NotApplicable(f"{task.classes} classes given; Neural Cleanse needs 3 or more, because of two masks "
                                "the smaller is always equally far below the median")
        found = self.recover(model, clean, range(task.classes), run)
        reached = int(found.success.sum())
        if 2 * reached <= task.classes:
            raise NotApplicable(f"Neural Cleanse found a mask for {reached} of {task.classes} classes; it compares "
                                "with the median, so it needs more than half; give more epochs or a lower `success`")
        index = anomaly_index(found.norm)
        smallest = int(index.argmax())
        rule = Rule(index[smallest].item(), self.threshold)
        exhibits = (
            Exhibit("trigger", "picture", "recovered mask × pattern", found.mask[smallest] * found.pattern[smallest]),
            Exhibit("mask", "mask", "recovered mask", found.mask[smallest, 0]),
        )
        return Finding(rule.value, rule, suspected=(smallest,) if rule.flagged else (),
                       per_class=tuple(index.tolist()), exhibits=exhibits)

    def recover(self, model: nn.Module, clean: Dataset, labels: Sequence[int], run: Run) -> Recovered:
        """The smallest successful mask and its pattern for each of the labels, on the CPU.

        What is found for one label does not depend on the others.

        Raises:
            NotApplicable: the images have no bounded range.
        """
        if not math.isfinite(clean.space.high - clean.space.low):
            raise NotApplicable(f"images in the space {tuple(clean.space)} given; Neural Cleanse needs a bounded range")
        # A copy, so that the model's mode, gradients and statistics stay as they are whatever happens.
        frozen = run.placed(copy.deepcopy(model)).eval().requires_grad_(False)
        search = _Search(self, frozen, clean.staged(run.device), labels, run)
        with run.progress.task("neural cleanse", self.epochs * len(labels)) as advance:
            for epoch in range(self.epochs):
                rows = search.active()
                if not rows:
                    break
                search.train_epoch(rows, epoch)
                finished = len(rows) - len(search.active())
                advance(len(rows) + finished * (self.epochs - epoch - 1), f"{len(rows) - finished} classes left")
        return search.found


@dataclass
class Recovered:
    """Masks and patterns of k labels, in [0, 1]. Without success the mask is the whole image."""

    mask: Float[Tensor, "k 1 h w"]
    pattern: Float[Tensor, "k c h w"]
    success: Bool[Tensor, "k"]

    @property
    def norm(self) -> Float[Tensor, "k"]:
        """L1 norm of each mask, in pixels."""
        norm: Tensor = self.mask.double().sum((1, 2, 3))
        return norm


def anomaly_index(norm: Float[Tensor, "k"]) -> Float[Tensor, "k"]:
    """(median - norm) / (1.4826 MAD): how far a norm lies below the others, in robust standard deviations.

    Means little for fewer than about ten classes, and nothing for two, for which it is ±0.67. All 0 if the norms are
    equal.
    """
    norm = norm.double()
    below = norm.quantile(0.5) - norm
    scale = 1.4826 * below.abs().quantile(0.5)
    if scale == 0:
        scale = 1.2533 * below.abs().mean()
    return below / scale if scale > 0 else below


class _Search:
    """Masks and patterns under optimisation, one parameter a label: (1 + c, h, w), the mask first."""

    def __init__(self, method: NeuralCleanse, model: nn.Module, clean: Dataset, labels: Sequence[int], run: Run):
        self.method, self.model, self.clean, self.run = method, model, clean, run
        self.labels = torch.tensor(labels, device=run.device)
        channels, height, width = clean.shape
        start = [torch.rand(1 + channels, height, width, generator=run.rng(f"label {label}")) for label in labels]
        # tanh, as in the paper; the interval is cut a little so that its inverse is finite.
        self.raw = [torch.atanh((2 * u - 1) * (1 - 1e-6)).to(run.device).requires_grad_() for u in start]
        self.optimiser = torch.optim.Adam(self.raw, lr=method.lr, betas=(0.5, 0.9))
        self.costs = _Costs(method, len(labels))
        self.found = Recovered(torch.ones(len(labels), 1, height, width),
                               torch.zeros(len(labels), channels, height, width),
                               torch.zeros(len(labels), dtype=torch.bool))

    def active(self) -> list[int]:
        """The rows of labels that are not finished."""
        return torch.nonzero(~self.costs.done)[:, 0].tolist()

    def train_epoch(self, rows: list[int], epoch: int) -> None:
        order = torch.randperm(len(self.clean), generator=self.run.rng(f"order/{epoch}"))[: self.method.samples]
        hits = torch.zeros(len(self.labels), device=self.run.device)
        for index in torch.split(order, self.method.batch):
            x = self.clean.fetch(index, self.run.device).x
            for group in self.groups(rows, x):
                hits[group] += self.set_gradients(group, x)
            self.optimiser.step()
        images = torch.stack([self.raw[k].detach().tanh() / 2 + 0.5 for k in rows]).cpu()
        self.keep(rows, images[:, :1], images[:, 1:], hits.cpu()[rows] / len(order))

    def groups(self, rows: list[int], x: Images) -> Iterator[list[int]]:
        """As many labels at a time as fit one forward pass."""
        size = max(1, VALUES.get(x.device.type, 2**20) // x.numel())
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def set_gradients(self, group: list[int], x: Images) -> Float[Tensor, "g"]:
        """The gradients of a group of labels; how many of the images each led to its label."""
        raw = [self.raw[k] for k in group]
        unit = torch.stack(raw).tanh() / 2 + 0.5
        mask, pattern = unit[:, None, :1], unit[:, None, 1:]
        space = self.clean.space
        stamped = (1 - mask) * x + mask * (pattern * (space.high - space.low) + space.low)
        with self.run.autocast():
            logits = self.model(stamped.flatten(0, 1)).float()
        target = self.labels[group].repeat_interleave(len(x))
        loss = functional.cross_entropy(logits, target, reduction="sum") / len(x)
        loss = loss + (self.costs.cost[group].to(x.device) * mask.sum((1, 2, 3, 4))).sum()
        for parameter, gradient in zip(raw, torch.autograd.grad(loss, raw), strict=True):
            parameter.grad = gradient
        won = (logits.argmax(1) == target) & logits.isfinite().all(1)
        hits: Tensor = won.float().view(len(group), -1).sum(1)
        return hits

    def keep(self, rows: list[int], mask: Tensor, pattern: Tensor, success: Float[Tensor, "r"]) -> None:
        """Note the masks that are the smallest successful ones so far, and stop the labels that are finished."""
        better = self.costs.update(rows, success >= self.method.success, mask.sum((1, 2, 3)))
        at = torch.tensor(rows)[better]
        self.found.mask[at], self.found.pattern[at], self.found.success[at] = mask[better], pattern[better], True
        for k in rows:
            if self.costs.done[k]:
                self.raw[k].grad = None  # the optimiser skips it from here on


class _Costs:
    """What the norm of each label's mask costs, and which labels are finished; (k,) tensors on the CPU."""

    def __init__(self, method: NeuralCleanse, labels: int):
        self.method = method
        self.cost = torch.zeros(labels)
        self.best = torch.full((labels,), torch.inf)
        self.stale, self.won, self.lost = torch.zeros(3, labels, dtype=torch.int64)
        self.raised, self.lowered, self.done = torch.zeros(3, labels, dtype=torch.bool)

    def update(self, rows: list[int], success: Bool[Tensor, "r"], norm: Float[Tensor, "r"]) -> Bool[Tensor, "r"]:
        """Enter the result of an epoch; which of the rows have a new smallest successful mask."""
        better = success & (norm < self.best[rows])
        self.best[rows] = torch.where(better, norm, self.best[rows])
        self.stale[rows] = torch.where(better | self.best[rows].isinf(), 0, self.stale[rows] + 1)
        self.press(rows, success)
        self.done |= self.raised & self.lowered & (self.stale >= self.method.stopping)
        return better

    def press(self, rows: list[int], success: Bool[Tensor, "r"]) -> None:
        """Raise or lower the costs of labels that have had, or missed, success for long enough."""
        method, cost = self.method, self.cost[rows]
        won = torch.where(success, self.won[rows] + 1, 0)
        lost = torch.where(success, 0, self.lost[rows] + 1)
        up, down = won >= method.patience, lost >= method.patience
        self.raised[rows] |= up & (cost > 0)
        self.lowered[rows] |= down & (cost > 0)
        higher = torch.where(cost > 0, cost * method.raising, method.cost)
        self.cost[rows] = torch.where(up, higher, torch.where(down, cost / method.lowering, cost))
        self.won[rows], self.lost[rows] = won.masked_fill(up, 0), lost.masked_fill(down, 0)
