"""PGD: sign steps that raise a loss within a bound.

Paper: Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR
2018, arXiv:1706.06083.

Perturbed images are clipped to [0, 1] wherever a classifier sees them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.data.base import Dataset
from sidedoor.triggers.base import Trigger, stamp_levels
from sidedoor.types import Images


@dataclass(frozen=True)
class Steps:
    """How PGD walks: within `epsilon` of the start, `iterations` sign steps of `step`, both in [0, 1] units.

    Args:
        until_crossed: an image stops once its class has changed, for a small perturbation rather than a bad one.
    """

    epsilon: float
    step: float
    iterations: int
    until_crossed: bool = False


def pgd(model: nn.Module, x: Images, label: Int[Tensor, "b"], how: Steps) -> Images:
    """Images near x, and in [0, 1], on which sign steps from x have raised the cross-entropy."""
    moved = x.clamp(0, 1)
    for _ in range(how.iterations):
        moved = moved.detach().requires_grad_(True)
        logits = model(moved)
        walking = logits.argmax(1) == label if how.until_crossed else torch.ones_like(label, dtype=torch.bool)
        if not walking.any():
            break
        (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, label, reduction="sum"), moved)
        moved = _stepped(moved, gradient * walking[:, None, None, None], x, how)
    return moved.detach()


def ascended(loss: Callable[[Images], Tensor], x: Images, how: Steps, start: Images) -> Images:
    """Images near x, and in [0, 1], on which sign steps from `start` have raised a loss, a scalar."""
    moved = start.clamp(0, 1)
    for _ in range(how.iterations):
        moved = moved.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(moved), moved)
        moved = _stepped(moved, gradient, x, how)
    return moved.detach()


def perturbed(model: nn.Module, data: Dataset, rows: Int[Tensor, "k"], how: Steps, trigger: Trigger,
              batch: int = 256) -> UInt8[Tensor, "k c h w"]:
    """Rows of a data set on which PGD has raised the loss of their labels, then stamped, as files keep them."""
    done = []
    for part in torch.split(rows, batch):
        x, y, index = data.fetch(part, next(model.parameters()).device)
        done.append(stamp_levels(trigger, pgd(model, x, y, how), index, data.space).to(torch.uint8).cpu())
    return torch.cat(done)


def _stepped(moved: Images, gradient: Images, x: Images, how: Steps) -> Images:
    further = moved.detach() + how.step * gradient.sign()
    return torch.min(torch.max(further, x - how.epsilon), x + how.epsilon).clamp(0, 1)
