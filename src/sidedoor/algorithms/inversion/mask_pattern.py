"""Trigger inversion with a mask and a pattern: what, put into part of every image, sends all of them to a class.

Paper: Wang, Yao, Shan, Li, Viswanath, Zheng, Zhao, "Neural Cleanse: Identifying and Mitigating Backdoor Attacks in
Neural Networks", IEEE Symposium on Security and Privacy 2019; other penalties make other methods of it.

All classes are optimised at once on the same images; in evaluation mode they do not influence each other, and a class
that has converged is dropped. Where the data have fewer than `samples` images, an epoch is one pass over them. An audit
may say instead whose turn each epoch is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.inversion.forms import Form, Masks, Patterns, Replaced
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.errors import ConfigError, NotApplicable
from sidedoor.types import Images, Space

TINY = 1e-3
"""The least size of a mask in pixels that others are compared with: where a model gives one class for everything, its
mask vanishes."""

NOWHERE = -1e12
"""The argument of a tanh that is -1 with a gradient of 0."""

TRAVEL = 6.0
"""How far Adam must be able to move a parameter of a mask before masks are compared: from 0.95 to 0.05 it is 3, and
these start anywhere and turn back. With half of it masks of digits still look alike when one will be a fifth of the
others; with more of it little time is saved."""


@dataclass(frozen=True)
class Candidate:
    """The masks and patterns of g labels as the penalties see them, with their graph; the second axis is of images.

    Args:
        model: images to logits.
        labels: the class that each mask and pattern is to lead to.
        space: that of the images.
    """

    mask: Masks
    pattern: Patterns
    labels: Int[Tensor, "g"]
    model: Callable[[Images], Float[Tensor, "b k"]]
    space: Space

    def values(self, unit: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Values in [0, 1] in the space of the images."""
        return unit * (self.space.high - self.space.low) + self.space.low


Penalty = Callable[[Candidate], Float[Tensor, "g"]]


def mask_norm(candidate: Candidate) -> Float[Tensor, "g"]:
    """The L1 norm of the masks, in pixels."""
    norm: Tensor = candidate.mask.sum((1, 2, 3, 4))
    return norm


def beyond(pixels: float) -> Penalty:
    """By how many pixels the L1 norm of the masks is above a wanted size; below it a mask costs nothing."""
    def excess(candidate: Candidate) -> Float[Tensor, "g"]:
        return (mask_norm(candidate) - pixels).clamp(min=0)

    return excess


@dataclass(frozen=True)
class Schedule:
    """How the cost of the penalties follows success, and when a label is finished.

    The cost starts at 0. After `patience` epochs of success it becomes `cost`, and after every further `patience`
    epochs of success it is multiplied by `raising`; after `patience` epochs without success it is divided by
    `lowering`.

    Args:
        success: share of an epoch's images that a mask must lead to its class to count.
        stopping: epochs without a smaller mask before a label is finished, once its cost went up and down.
        margin: a label is left once its mask is this many times as large as the smallest was by then; 0: never.

    Raises:
        ConfigError: `raising` or `lowering` is not above 1, or `margin` is neither 0 nor above 1.
    """

    cost: float
    raising: float
    lowering: float
    success: float
    patience: int
    stopping: int
    margin: float = 0.0

    def __post_init__(self) -> None:
        if min(self.raising, self.lowering) <= 1:
            raise ConfigError(f"raising = {self.raising} and lowering = {self.lowering} given; expected both above 1")
        if 0 < self.margin <= 1:
            raise ConfigError(f"margin = {self.margin} given; expected above 1, or 0 to leave no class")


@dataclass
class Recovered:
    """Masks and patterns of k labels, in [0, 1]; patterns that are added, in [-1, 1]. Without success the mask is the
    whole image.

    Attributes:
        behind: of labels that were left early, how many times as large as the smallest their mask was; else 0.
    """

    mask: Float[Tensor, "k 1 h w"]
    pattern: Float[Tensor, "k c h w"]
    success: Bool[Tensor, "k"]
    behind: Float[Tensor, "k"]

    @property
    def norm(self) -> Float[Tensor, "k"]:
        """L1 norm of each mask, in pixels.

        A mask that was left early would have shrunk like the smallest one, so its norm is estimated as being as many
        times that of the smallest as it was then.
        """
        norm: Tensor = self.mask.double().sum((1, 2, 3))
        return torch.where(self.behind > 0, self.behind * norm.min(), norm)


@dataclass(frozen=True)
class Standing:
    """How far labels are, one value each, on the CPU.

    Attributes:
        epochs: that they had.
        best: L1 norm of the smallest successful mask so far, in pixels; infinite without one.
        speed: pixels that it lost in an epoch with a cost, on average.
        settled: whether parameters could move far enough under a cost for masks to be compared.
        done: finished.
    """

    epochs: Int[Tensor, "g"]
    best: Float[Tensor, "g"]
    speed: Float[Tensor, "g"]
    settled: Bool[Tensor, "g"]
    done: Bool[Tensor, "g"]


Turns = Callable[[Standing, torch.Generator], list[int]]
"""The rows of the labels that the next epoch is for; none ends the search."""


def all_of_them(standing: Standing, rng: torch.Generator) -> list[int]:
    """Every label that is not finished."""
    rows: list[int] = torch.nonzero(~standing.done)[:, 0].tolist()
    return rows


@dataclass(frozen=True)
class Inversion:
    """Minimise cross-entropy towards a class plus a cost times the sum of the penalties, for every class.

    Args:
        epochs: most epochs per class.
        samples: images per epoch.
        batch: images per step; every class sees all of them.
        lr: of Adam with betas (0.5, 0.9).
        form: what a trigger is made of.
        turns: which labels each epoch is for.
        rounds: most epochs of all classes together.
        forbidden: pixels that no trigger may change; None: it may be anywhere.
    """

    penalties: tuple[Penalty, ...]
    schedule: Schedule
    epochs: int
    samples: int
    batch: int
    lr: float
    form: Form = Replaced()
    turns: Turns = all_of_them
    rounds: float = math.inf
    forbidden: Bool[Tensor, "h w"] | None = None

    def recover(self, model: nn.Module, clean: Dataset, labels: Sequence[int], run: Run) -> Recovered:
        """The smallest successful mask and its pattern for each of the labels, on the CPU.

        A label that is given several times is begun for at as many places. Without a `margin`, and with epochs for
        all, what is found for one label does not depend on the others.

        Raises:
            NotApplicable: the images have no bounded range.
        """
        if not math.isfinite(clean.space.high - clean.space.low):
            raise NotApplicable(f"images in the space {tuple(clean.space)} given; trigger inversion needs a bounded "
                                "range")
        search = _Search(self, run.frozen(model), clean.staged(run.device), labels, run)
        with run.progress.task("trigger inversion", search.left()) as advance:
            while rows := search.turn():
                before = search.left()
                search.train_epoch(rows)
                advance(before - search.left(), f"{int((~search.done()).sum())} classes left")
        return search.found


class _Search:
    """Masks and patterns under optimisation, one parameter a label, whose planes their form reads."""

    def __init__(self, method: Inversion, model: nn.Module, clean: Dataset, labels: Sequence[int], run: Run):
        self.method, self.model, self.clean, self.run = method, model, clean, run
        self.labels = torch.tensor(labels, device=run.device)
        channels, height, width = clean.shape
        planes, most = method.form.planes(channels), method.form.start
        start = [most * torch.rand(planes, height, width, generator=run.rng(name)) for name in _streams(labels)]
        # tanh, as in the paper; the interval is cut a little so that its inverse is finite.
        raw = [torch.atanh((2 * u - 1) * (1 - 1e-6)) for u in start]
        if method.forbidden is not None:  # where the tanh is flat, no step leads away
            raw = [values.masked_fill(method.forbidden.cpu(), NOWHERE) for values in raw]
        self.raw = [values.to(run.device).requires_grad_() for values in raw]
        self.optimiser = torch.optim.Adam(self.raw, lr=method.lr, betas=(0.5, 0.9))
        steps = math.ceil(min(method.samples, len(clean)) / method.batch)
        self.costs = _Costs(method.schedule, len(labels), math.ceil(TRAVEL / method.lr / steps))
        self.found = Recovered(torch.ones(len(labels), 1, height, width),
                               torch.zeros(len(labels), channels, height, width),
                               torch.zeros(len(labels), dtype=torch.bool), self.costs.behind)
        self.epoch = 0

    def done(self) -> Bool[Tensor, "g"]:
        """Which labels get no further epoch."""
        done: Tensor = self.costs.done | (self.costs.epochs >= self.method.epochs)
        return done

    def left(self) -> int:
        """How many epochs of one label may follow."""
        each = (self.method.epochs - self.costs.epochs).masked_fill(self.done(), 0)
        return int(min(each.sum().item(), self.method.rounds - self.costs.epochs.sum().item()))

    def turn(self) -> list[int]:
        """The rows of labels that the next epoch is for."""
        rows = self.method.turns(self.costs.standing(self.done()), self.run.rng(f"turn/{self.epoch}"))
        return rows[: self.left()]

    def train_epoch(self, rows: list[int]) -> None:
        for parameter in self.raw:
            parameter.grad = None  # the optimiser skips the labels whose turn it is not
        order = torch.randperm(len(self.clean), generator=self.run.rng(f"order/{self.epoch}"))[: self.method.samples]
        self.epoch += 1
        hits = torch.zeros(len(self.labels), device=self.run.device)
        for index in torch.split(order, self.method.batch):
            x = self.clean.fetch(index, self.run.device).x
            for part in self.run.chunks(len(rows), x.numel()):
                hits[rows[part]] += self.set_gradients(rows[part], x)
            self.optimiser.step()
        mask, pattern = self.method.form.read(torch.stack([self.raw[k].detach().tanh() / 2 + 0.5 for k in rows]).cpu())
        self.keep(rows, mask, pattern, hits.cpu()[rows] / len(order))

    def logits(self, x: Images) -> Float[Tensor, "b k"]:
        with self.run.autocast():
            answer: Tensor = self.model(x).float()
        return answer

    def set_gradients(self, group: list[int], x: Images) -> Float[Tensor, "g"]:
        """The gradients of a group of labels; how many of the images each led to its label."""
        raw = [self.raw[k] for k in group]
        mask, pattern = (part[:, None] for part in self.method.form.read(torch.stack(raw).tanh() / 2 + 0.5))
        trial = Candidate(mask, pattern, self.labels[group], self.logits, self.clean.space)
        logits = self.logits(self.method.form.stamped(x, mask, pattern, self.clean.space).flatten(0, 1))
        target = trial.labels.repeat_interleave(len(x))
        loss = functional.cross_entropy(logits, target, reduction="sum") / len(x)
        penalty = torch.stack([penalty(trial) for penalty in self.method.penalties]).sum(0)
        loss = loss + (self.costs.cost[group].to(x.device) * penalty).sum()
        for parameter, gradient in zip(raw, torch.autograd.grad(loss, raw), strict=True):
            parameter.grad = gradient
        won = (logits.argmax(1) == target) & logits.isfinite().all(1)
        hits: Tensor = won.float().view(len(group), -1).sum(1)
        return hits

    def keep(self, rows: list[int], mask: Tensor, pattern: Tensor, success: Float[Tensor, "r"]) -> None:
        """Note the masks that are the smallest successful ones so far."""
        better = self.costs.update(rows, success >= self.method.schedule.success, mask.sum((1, 2, 3)))
        at = torch.tensor(rows)[better]
        self.found.mask[at], self.found.pattern[at], self.found.success[at] = mask[better], pattern[better], True


def _streams(labels: Sequence[int]) -> list[str]:
    """Names of the streams that the labels begin with; one that comes again begins elsewhere."""
    again = [labels[:k].count(label) for k, label in enumerate(labels)]
    return [f"label {label}" + (f"/{time}" if time else "") for label, time in zip(labels, again, strict=True)]


class _Costs:
    """What the penalties of each label cost, and which labels are finished; (k,) tensors on the CPU."""

    def __init__(self, schedule: Schedule, labels: int, settling: int):
        self.schedule, self.settling = schedule, settling
        self.cost, self.behind = torch.zeros(2, labels)
        self.best = torch.full((labels,), torch.inf)
        self.trail: list[list[float]] = [[] for _ in range(labels)]  # `best` after each epoch with a cost
        self.epochs, self.stale, self.won, self.lost = torch.zeros(4, labels, dtype=torch.int64)
        self.raised, self.lowered, self.done = torch.zeros(3, labels, dtype=torch.bool)

    def update(self, rows: list[int], success: Bool[Tensor, "r"], norm: Float[Tensor, "r"]) -> Bool[Tensor, "r"]:
        """Enter the result of an epoch; which of the rows have a new smallest successful mask."""
        self.epochs[rows] += 1
        better = success & (norm < self.best[rows])
        self.best[rows] = torch.where(better, norm, self.best[rows])
        self.stale[rows] = torch.where(better | self.best[rows].isinf(), 0, self.stale[rows] + 1)
        self.press(rows, success)
        self.done |= self.raised & self.lowered & (self.stale >= self.schedule.stopping)
        self.follow(rows)
        if self.schedule.margin:
            self.leave(rows)
        return better

    def press(self, rows: list[int], success: Bool[Tensor, "r"]) -> None:
        """Raise or lower the costs of labels that have had, or missed, success for long enough."""
        schedule, cost = self.schedule, self.cost[rows]
        won = torch.where(success, self.won[rows] + 1, 0)
        lost = torch.where(success, 0, self.lost[rows] + 1)
        up, down = won >= schedule.patience, lost >= schedule.patience
        self.raised[rows] |= up & (cost > 0)
        self.lowered[rows] |= down & (cost > 0)
        higher = torch.where(cost > 0, cost * schedule.raising, schedule.cost)
        self.cost[rows] = torch.where(up, higher, torch.where(down, cost / schedule.lowering, cost))
        self.won[rows], self.lost[rows] = won.masked_fill(up, 0), lost.masked_fill(down, 0)

    def follow(self, rows: list[int]) -> None:
        """Note how large the masks of labels with a cost are by now."""
        for k in rows:
            self.trail[k] += [self.best[k].item()] if self.cost[k] > 0 else []

    def standing(self, done: Bool[Tensor, "g"]) -> Standing:
        """How far the labels are, for whoever decides whose turn it is."""
        lost = torch.tensor([(seen[0] - seen[-1]) / len(seen) if seen else 0.0 for seen in self.trail])
        settled = torch.tensor([len(seen) >= self.settling for seen in self.trail])
        return Standing(self.epochs, self.best, lost, settled, done)

    def leave(self, rows: list[int]) -> None:
        """Finish those of the rows whose masks are too large to become the smallest.

        One that was successful later has been pressed for less long and may still overtake, so each is compared with
        what the smallest was after as many epochs with a cost, once these let pixels go that are of no use.
        """
        leader = self.trail[int(self.best.argmin())]
        settled = [k for k in rows if self.raised[k] and not self.done[k] and len(self.trail[k]) >= self.settling]
        for k in settled if leader else ():
            ratio = self.best[k].item() / max(leader[min(len(self.trail[k]), len(leader)) - 1], TINY)
            if ratio > self.schedule.margin:
                self.behind[k], self.done[k] = ratio, True
