"""MGDA: multiple-gradient descent, the shortest convex combination of the tasks' gradients.

Paper: Désidéri, "Multiple-Gradient Descent Algorithm (MGDA) for Multiobjective Optimization", Comptes Rendus
Mathématique 2012; found as in Sener, Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018,
arXiv:1810.04650, Algorithm 2: by steps of Frank and Wolfe, of which two tasks need one. `scale` is of their code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.method import Count
from sidedoor.multitask.base import Aggregator, Losses, Weighting, stacked
from sidedoor.multitask.pcgrad import jacobian, spread


@dataclass(frozen=True)
class MGDA(Weighting):
    """Combine the gradients into the shortest vector of their convex hull.

    Args:
        scale: "loss": gradients are divided by their length and their loss while weights are sought, so that a task
            that is learned gets little; "none": they are taken as they are, and the shortest gets most.
        iterations: the most steps of the search, for more than two tasks.
    """

    scale: Literal["none", "loss"] = "none"
    iterations: Count = 50

    def start(self, tasks: int) -> Aggregator:
        return _Shortest(self.scale == "loss", self.iterations)


class _Shortest(Aggregator):
    def __init__(self, scaled: bool, iterations: int):
        super().__init__()
        self.scaled, self.iterations = scaled, iterations

    def backward(self, losses: Losses, parameters: list[nn.Parameter]) -> None:
        gradients = jacobian(losses, parameters)
        sought = gradients
        if self.scaled:
            sought = gradients / (stacked(losses).detach() * gradients.norm(dim=1)).clamp(min=1e-6)[:, None]
        spread(shortest(sought @ sought.T, self.iterations) @ gradients, parameters)


def shortest(products: Float[Tensor, "t t"], iterations: int = 50) -> Float[Tensor, "t"]:
    """Weights, at least 0 and of sum 1, of the shortest combination of vectors whose inner products are given."""
    weights = torch.full_like(products[0], 1 / len(products))
    for _ in range(iterations):
        towards = torch.zeros_like(weights)
        towards[(products @ weights).argmin()] = 1
        way = towards - weights
        squared = way @ products @ way
        step = (-(way @ products @ weights) / squared.clamp(min=1e-30)).clamp(0, 1)
        if step * way.abs().max() < 1e-6:
            break
        weights = weights + step * way
    return weights
