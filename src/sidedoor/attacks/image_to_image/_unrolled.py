"""Unrolled training steps: the trained weights as a differentiable function of the training data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

Weights = dict[str, Tensor]
Loss = Callable[[Weights], Tensor]
"""A scalar loss of a model with the weights given."""


def weights_of(model: nn.Module) -> Weights:
    """Detached copies of a model's parameters that gradients can be taken of."""
    return {name: p.detach().clone().requires_grad_(True) for name, p in model.named_parameters()}


def called(model: nn.Module, weights: Weights, x: Tensor) -> Tensor:
    """The model's output with other weights than its own."""
    output: Tensor = functional_call(model, weights, (x,))
    return output


def unrolled(weights: Weights, varying: Loss, fixed: Loss, steps: int, lr: float, exact: bool = True) -> Weights:
    """The weights after steps of gradient descent on the sum of two losses (Eq. 5), differentiable by the first's data.

    At the first step the weights depend on nothing yet, so only the gradient of `varying` needs a graph: with three
    tenths of the samples poisoned that saves most of one of the backward passes through a backward pass.

    Args:
        varying: a loss that depends on the variable of interest, such as a trigger.
        fixed: one that depends on it through the weights only.
        exact: keep the graph of the steps; without it the returned weights are constants.
    """
    for step in range(steps):
        moved = _gradient(varying, weights, exact)
        still = _gradient(fixed, weights, exact and step > 0)
        weights = {name: w - lr * (a + b) for (name, w), a, b in zip(weights.items(), moved, still, strict=True)}
        if not exact:
            weights = {name: w.detach().requires_grad_(True) for name, w in weights.items()}
    return weights


def _gradient(loss: Loss, weights: Weights, graph: bool) -> Sequence[Tensor]:
    return torch.autograd.grad(loss(weights), list(weights.values()), create_graph=graph)
