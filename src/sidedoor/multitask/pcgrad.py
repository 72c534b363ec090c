"""PCGrad: gradient surgery, which projects conflicting gradients onto each other's normal plane.

Paper: Yu, Kumar, Gupta, Levine, Hausman, Finn, "Gradient Surgery for Multi-Task Learning", NeurIPS 2020,
arXiv:2001.06782.

Jiang et al. (Eq. 9) project the backdoor task's gradient only and leave the main task's alone: `variant = "paper"`. Yu
et al. project each against the others as they were, in random order: "symmetric". Gradients are summed in both, and the
product is one over all parameters, not one a layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.multitask.base import Aggregator, Losses, Weighting


@dataclass(frozen=True)
class PCGrad(Weighting):
    """Project conflicting gradients.

    Args:
        variant: "paper": each task's gradient against those before it, the first task's stays; "symmetric": each
            against all others.
    """

    variant: Literal["paper", "symmetric"] = "paper"

    def start(self, tasks: int) -> Aggregator:
        return _Projecting(self.variant == "symmetric")


class _Projecting(Aggregator):
    def __init__(self, symmetric: bool):
        super().__init__()
        self.symmetric = symmetric

    def backward(self, losses: Losses, parameters: list[nn.Parameter]) -> None:
        given = jacobian(losses, parameters)
        projected = given.clone()
        for i in range(len(given)):
            order = torch.randperm(len(given)).tolist() if self.symmetric else range(i)
            for j in order:
                product, squared = projected[i] @ given[j], given[j].square().sum()
                # The square of a tiny gradient may be zero where the gradient is not.
                if j != i and product < 0 < squared:
                    projected[i] -= product / squared * given[j]  # Eq. (9)
        spread(projected.sum(0), parameters)


def jacobian(losses: Losses, parameters: list[nn.Parameter]) -> Float[Tensor, "t p"]:
    """The gradient of each loss, flattened over all parameters; 0 where a loss does not depend on one."""
    rows = []
    for i, loss in enumerate(losses):
        gradients = torch.autograd.grad(loss, parameters, retain_graph=i + 1 < len(losses), allow_unused=True)
        rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten()
                               for g, p in zip(gradients, parameters, strict=True)]))
    return torch.stack(rows)


def spread(gradient: Float[Tensor, "p"], parameters: list[nn.Parameter]) -> None:
    """A flat gradient as the gradients of the parameters."""
    for parameter, part in zip(parameters, torch.split(gradient, [p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)
