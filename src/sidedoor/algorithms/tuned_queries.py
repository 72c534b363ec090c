"""Tuned queries: images and a classifier of a network's answers to them, optimised together on a pool of shadow models.

Papers: Kolouri, Saha, Pirsiavash, Hoffmann, "Universal Litmus Patterns: Revealing Backdoor Attacks in CNNs", CVPR 2020,
arXiv:1906.10842; Xu, Wang, Li, Borisov, Gunter, Li, "Detecting AI Trojans Using Meta Neural Analysis", S&P 2021,
arXiv:1910.03137. They differ in the classifier and where the queries start, and give it logits as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.shadow_pool import Pool
from sidedoor.engine import Run
from sidedoor.types import Images, Space

HELD_OUT = 4
"""One in so many pairs of shadow models chooses the step at which queries and classifier are taken."""


@dataclass(frozen=True)
class Tuning:
    """How queries and classifier are optimised: by Adam, with the gradient of all shadow models.

    Args:
        steps: of Adam.
        lr: for the classifier.
        query_lr: for the queries, as a share of the range of the images.
        smoothness: weight of the queries' total variation, a mean over pixels and in shares of the range.
    """

    steps: int
    lr: float
    query_lr: float
    smoothness: float = 0.0


class Tuned(NamedTuple):
    """Queries (m, c, h, w) within the range of the images, and a classifier of the answers to them."""

    queries: Images
    classifier: nn.Module

    def suspicion(self, model: nn.Module) -> Float[Tensor, ""]:
        """The log-odds that a model is backdoored."""
        odds: Tensor = self.classifier(answers(model, self.queries)[None])[0, 0]
        return odds


def answers(model: nn.Module, queries: Images) -> Float[Tensor, "m_k"]:
    """The logits of each query in descending order, those of all queries one after the other.

    They are in standard deviations of all from their mean, since training longer or on more data makes logits larger.
    In order it does not matter which class is the target: with a place for each class, a classifier that has a few
    models to learn from learns their targets.
    """
    logits = model(queries).float()
    offset = logits - logits.mean()
    scaled = offset / offset.square().mean().sqrt().clamp(min=1e-6)
    ordered: Tensor = scaled.sort(1, descending=True).values
    return ordered.flatten()


@torch.enable_grad()
def tuned(pool: Pool, queries: Images, classifier: nn.Module, tuning: Tuning, space: Space, run: Run) -> Tuned:
    """Queries and classifier that tell backdoored shadow models from clean ones, from where they are given.

    One pair of shadow models in four is not tuned on: the step at which these are told apart best counts.
    """
    x = ((queries.to(run.device) - space.low) / (space.high - space.low)).requires_grad_(True)
    classifier = classifier.to(run.device)
    leaves: list[Tensor] = [x, *classifier.parameters()]
    groups: list[dict[str, Any]] = [{"params": leaves[:1], "lr": tuning.query_lr}, {"params": leaves[1:]}]
    optimiser = torch.optim.Adam(groups, tuning.lr)
    own, held = _parts(len(pool.models))
    least, best = float("inf"), Tuned(x.detach(), classifier)
    with run.progress.task("queries", tuning.steps + 1) as advance:
        for step in range(tuning.steps + 1):
            with torch.no_grad():
                loss = sum(_loss(x, classifier, pool, number, space).item() for number in held)
                if loss < least:
                    least, best = loss, Tuned(_images(x, space).clone(), copy.deepcopy(classifier))
            if step < tuning.steps:
                _descend(x, classifier, pool, own, space, tuning.smoothness, leaves)
                optimiser.step()
                x.detach().clamp_(0, 1)
            advance()
    return best


def _parts(count: int) -> tuple[list[int], list[int]]:
    """Shadow models to tune on and others to choose the step by; clean and backdoored ones take turns in the pool."""
    held = [number for number in range(count) if number // 2 % HELD_OUT == HELD_OUT - 1]
    return [number for number in range(count) if number not in held], held or [*range(count)]


def _descend(x: Images, classifier: nn.Module, pool: Pool, own: Sequence[int], space: Space, smoothness: float,
             leaves: Sequence[Tensor]) -> None:
    """Set the gradients of the mean loss, one shadow model after the other."""
    (rough,) = torch.autograd.grad(smoothness * _variation(x), [x])
    total = [rough, *(torch.zeros_like(leaf) for leaf in leaves[1:])]
    for number in own:
        loss = _loss(x, classifier, pool, number, space) / len(own)
        for sum_of, gradient in zip(total, torch.autograd.grad(loss, leaves), strict=True):
            sum_of += gradient
    for leaf, gradient in zip(leaves, total, strict=True):
        leaf.grad = gradient


def _loss(x: Images, classifier: nn.Module, pool: Pool, number: int, space: Space) -> Float[Tensor, ""]:
    odds = Tuned(_images(x, space), classifier).suspicion(pool.models[number])
    return functional.binary_cross_entropy_with_logits(odds, pool.backdoored[number].to(odds))


def _images(x: Images, space: Space) -> Images:
    return x * (space.high - space.low) + space.low


def _variation(x: Images) -> Float[Tensor, ""]:
    """Mean absolute difference of neighbouring pixels."""
    return x.diff(dim=2).abs().mean() + x.diff(dim=3).abs().mean()
