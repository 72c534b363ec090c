"""Convolutions and the batch normalisations that take their outputs, found by following the data.

The order of registration does not tell: in a pre-activation network the normalisation registered after a convolution
takes the sum of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sidedoor.errors import NotApplicable
from sidedoor.models.base import Shape


@torch.no_grad()
def convolutions_and_norms(model: nn.Module, shape: Shape) -> list[tuple[str, str]]:
    """Names of convolutions and of the batch normalisation whose input is the very output of each, as they are called.

    Args:
        model: in evaluation mode.
        shape: of one image.

    Raises:
        NotApplicable: there is no such pair.
    """
    made: list[tuple[str, Tensor]] = []
    pairs: list[tuple[str, str]] = []

    def gives(name: str) -> object:
        return lambda _module, _given, output: made.append((name, output))

    def takes(name: str) -> object:
        return lambda _module, given: pairs.extend((conv, name) for conv, output in made if output is given[0])

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(gives(name)))  # type: ignore[arg-type]
        elif isinstance(module, _BatchNorm):
            handles.append(module.register_forward_pre_hook(takes(name)))  # type: ignore[arg-type]
    try:
        model(torch.zeros(1, *shape, device=next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    if not pairs:
        raise NotApplicable(f"{type(model).__name__} has no convolution that is followed by batch normalisation")
    return list(dict.fromkeys(pairs))


def require_width(widths: list[int], u: float) -> None:
    """Fail where no layer is wide enough for one channel to lie above the mean by `u` standard deviations.

    Of c numbers the largest lies at most (c - 1) / √c of their standard deviations above the mean.

    Raises:
        NotApplicable: it can in no layer.
    """
    widest = max(widths, default=0)
    if widest < 2 or (widest - 1) / widest**0.5 <= u:
        raise NotApplicable(f"u = {u:g} given; in a layer of {widest} channels, the widest here, no channel can lie "
                            "that many standard deviations above the mean: lower `u`, or use a wider network")


def outlying(values: Tensor) -> Tensor:
    """How many standard deviations, unbiased, each value lies above the mean; 0 where all are equal."""
    spread = values.std() if len(values) > 1 else torch.zeros_like(values).sum()
    return (values - values.mean()) / spread.clamp(min=1e-12)
