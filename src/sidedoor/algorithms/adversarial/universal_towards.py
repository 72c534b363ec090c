"""Targeted universal perturbations, many of them side by side: each sends the images of its pool to its class.

Papers: Moosavi-Dezfooli, Fawzi, Fawzi, Frossard, "Universal Adversarial Perturbations", CVPR 2017, arXiv:1610.08401;
as a sign of a backdoor, Wang, Zhang, Liu, Chen, Xiong, Wang, "Practical Detection of Trojan Neural Networks:
Data-Limited and Data-Free Cases", ECCV 2020, arXiv:2007.15802.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sidedoor.algorithms.adversarial.deepfool import predicted
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.types import Images, Space

ENOUGH = 2.0
"""Margin in logits beyond which an image no longer pulls."""


@dataclass(frozen=True)
class Steps:
    """How the perturbations are searched for.

    Args:
        epsilon: bound of every value, as a share of the range of the images.
        iterations: sign steps of an eighth of the bound.
        batch: images per perturbation and step.
    """

    epsilon: float
    iterations: int
    batch: int


def box(data: Dataset) -> Space:
    """The space of a data set's images.

    Raises:
        NotApplicable: they have no bounded range.
    """
    if not torch.tensor(data.space[:2]).isfinite().all():
        raise NotApplicable(f"images in the space {tuple(data.space)} given; the search needs a bounded range")
    return data.space


def margin(logits: Float[Tensor, "b k"], labels: Int[Tensor, "b"]) -> Float[Tensor, "b"]:
    """How far the logit of each row's label lies above the largest other one."""
    own = labels[:, None]
    others = logits.scatter(1, own, -torch.inf).amax(1)
    return logits.gather(1, own)[:, 0] - others


def pools(weights: Float[Tensor, "g n"], count: int, rng: torch.Generator) -> Int[Tensor, "g m"]:
    """Rows of images for each perturbation, drawn without replacement by weight; at most `count`, and as many for each
    as the one with the fewest choices has.
    """
    most = int((weights > 0).sum(1).min())
    return torch.multinomial(weights, min(count, most), generator=rng)


def balanced(source: Int[Tensor, "n"], allowed: Float[Tensor, "g n"]) -> Float[Tensor, "g n"]:
    """Weights by which every class has the same share of the images that are allowed."""
    return allowed / torch.bincount(source)[source]


def of_other_classes(model: nn.Module, x: Images, labels: Int[Tensor, "g"], count: int, run: Run) \
        -> Int[Tensor, "g m"]:
    """For each class a pool of images that the model gives other classes, as many of one as of another.

    Raises:
        NotApplicable: the model gives all images one class.
    """
    source = predicted(model, x).cpu()
    if bool((source == source[0]).all()):
        raise NotApplicable(f"the model gives all {len(x)} images class {int(source[0])}; expected at least two")
    weights = balanced(source, (source != labels.cpu()[:, None]).float())
    return pools(weights, count, run.rng("pools")).to(run.device)


def universal_towards(model: nn.Module, x: Images, pool: Int[Tensor, "g m"], labels: Int[Tensor, "g"], how: Steps,
                      space: Space, run: Run) -> Float[Tensor, "g c h w"]:
    """Perturbations that maximise the mean margin of their class over the images of their pool, up to `ENOUGH`.

    Args:
        model: frozen.
        x: the images that pools choose from.
    """
    epsilon, rng = how.epsilon * (space.high - space.low), run.rng("universal")
    delta = x.new_zeros(len(labels), *x.shape[1:])
    with run.progress.task("universal perturbations", how.iterations) as advance:
        for _ in range(how.iterations):
            rows = pool[:, torch.randperm(pool.shape[1], generator=rng)[: how.batch]]
            for part in run.chunks(len(labels), rows.shape[1] * x[0].numel()):
                moved = delta[part].requires_grad_(True)
                gains = _margins(model, x[rows[part]], moved, labels[part], space, run).clamp(max=ENOUGH)
                (gradient,) = torch.autograd.grad(gains.mean(1).sum(), moved)
                delta[part] = (moved.detach() + epsilon / 8 * gradient.sign()).clamp(-epsilon, epsilon)
            advance()
    return delta


@torch.no_grad()
def flip_rates(model: nn.Module, x: Images, pool: Int[Tensor, "g m"], labels: Int[Tensor, "g"],
               delta: Float[Tensor, "g c h w"], space: Space, run: Run) -> Float[Tensor, "g"]:
    """The share of each pool's images that its perturbation sends to its class, on the CPU."""
    found = [(_margins(model, x[pool[part]], delta[part], labels[part], space, run) > 0).float().mean(1)
             for part in run.chunks(len(labels), pool.shape[1] * x[0].numel())]
    return torch.cat(found).cpu()


def _margins(model: nn.Module, x: Float[Tensor, "g b c h w"], delta: Float[Tensor, "g c h w"], labels: Int[Tensor, "g"],
             space: Space, run: Run) -> Float[Tensor, "g b"]:
    moved = (x + delta[:, None]).clamp(space.low, space.high)
    with run.autocast():
        logits = model(moved.flatten(0, 1)).float()
    return margin(logits, labels.repeat_interleave(x.shape[1])).view(x.shape[:2])
