"""A network with the rounding of a deployed one, simulated in float32: 8-bit integers, or bfloat16.

Integers are those of Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", CVPR 2018, arXiv:1712.05877: weights symmetric by output channel, the inputs of each convolution and linear
layer affine by tensor, between the extremes that calibration images show, and of the first layer black and white ones,
since any image may be put in. Batch normalisation stays as it is, where deployment folds it into the layer before;
biases and outputs stay in float32. Gradients pass the rounding unchanged (straight through), or audits could search for
nothing in such a network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sidedoor.types import Images

_LAYERS = (nn.Conv2d, nn.Linear)
Range = tuple[float, float]


@torch.no_grad()
def int8(model: nn.Module, images: Images) -> nn.Module:
    """A copy whose weights and activations have 8 bits.

    Args:
        images: clean ones that show how large activations become.
    """
    rounded = copy.deepcopy(model).eval()
    ranges = _ranges(rounded, images)
    for layer in _layers(rounded):
        weight = layer.weight
        scale = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True).clamp(min=1e-12) / 127
        weight.copy_((weight / scale).round() * scale)
        layer.register_forward_pre_hook(_Affine(*ranges[layer]))
    return rounded


@torch.no_grad()
def bf16(model: nn.Module) -> nn.Module:
    """A copy whose weights and activations have the eight significant bits of bfloat16."""
    rounded = copy.deepcopy(model).eval()
    for layer in _layers(rounded):
        layer.weight.copy_(layer.weight.bfloat16())
        layer.register_forward_pre_hook(lambda _layer, given: (given[0].bfloat16().to(given[0].dtype), *given[1:]))
    return rounded


def _layers(model: nn.Module) -> Iterator[nn.Conv2d | nn.Linear]:
    return (module for module in model.modules() if isinstance(module, _LAYERS))


def _ranges(model: nn.Module, images: Images) -> dict[nn.Module, Range]:
    """Of the inputs of each layer; 0 is always between, so that it is a number of the grid."""
    seen: dict[nn.Module, Range] = dict.fromkeys(_layers(model), (0.0, 0.0))

    def look(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        low, high = seen[layer]
        seen[layer] = (min(low, given[0].min().item()), max(high, given[0].max().item()))

    handles = [layer.register_forward_pre_hook(look) for layer in seen]
    try:
        model(images)
        for handle in handles[1:]:
            handle.remove()
        model(torch.stack([torch.zeros_like(images[0]), torch.ones_like(images[0])]))
    finally:
        for handle in handles:
            handle.remove()
    return seen


class _Affine:
    """A hook that puts the inputs of a layer onto 256 numbers, 0 among them."""

    def __init__(self, low: float, high: float):
        self.scale = max(high - low, 1e-12) / 255
        self.zero = round(-low / self.scale)

    def __call__(self, _layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (_Straight.apply(given[0], self), *given[1:])

    def rounded(self, x: Tensor) -> Tensor:
        whole = (x / self.scale).round() + self.zero
        return (whole.clamp(0, 255) - self.zero) * self.scale


class _Straight(torch.autograd.Function):
    """Rounding whose gradient is taken for 1, so that audits can search through it."""

    @staticmethod
    def forward(_context: Any, x: Tensor, grid: _Affine) -> Tensor:
        return grid.rounded(x)

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
