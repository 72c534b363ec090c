"""Gradients elsewhere: those of a loss at perturbed weights, and a loss that hands given gradients to the loop.

Sharpness-aware minimisation (Foret, Kleiner, Mobahi, Neyshabur, ICLR 2021, arXiv:2010.01412) and its relatives differ
in the perturbation alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that a phase trains, in the order of the model."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def gradients(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Of a scalar; zero for parameters that it does not depend on."""
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def norm(tensors: Sequence[Tensor]) -> Float[Tensor, ""]:
    """The Euclidean norm of all of them as one vector."""
    found: Tensor = torch.stack([tensor.norm() for tensor in tensors]).norm()
    return found


def at(parameters: Sequence[nn.Parameter], shift: Sequence[Tensor], loss: Callable[[], Tensor]) -> list[Tensor]:
    """Gradients of a loss at `parameters + shift`; the parameters are put back bit for bit, whatever happens.

    Args:
        loss: a scalar of the parameters as they are when it is called.
    """
    kept = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter, change in zip(parameters, shift, strict=True):
                parameter.add_(change)
        return gradients(loss(), parameters)
    finally:
        # A copy, since what was added and is subtracted again leaves rounding in the weights.
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)


def carrying(value: Tensor, parameters: Sequence[Tensor], given: Sequence[Tensor]) -> Float[Tensor, "1"]:
    """A loss of a known value whose gradient by the parameters is `given`, so that the one training loop takes it."""
    surrogate = torch.stack([(p * g.detach()).sum() for p, g in zip(parameters, given, strict=True)]).sum()
    return (surrogate + (value - surrogate).detach())[None]
