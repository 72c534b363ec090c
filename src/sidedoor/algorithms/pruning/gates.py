"""Gates on channels: masks that are learned while the network stays as it is, and the channels that they cut off.

A gate multiplies what a normalisation scales a channel by. Of a network with batch normalisation these are its weights;
without, those of layer or group normalisation; where there is neither, the rows of convolutions and linear layers
other than the head. The published methods know the first alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from sidedoor.errors import NotApplicable
from sidedoor.models.base import head


class Gate(nn.Module):
    """Multiply what belongs to each channel by a mask, to which noise is added where some is set.

    Attributes:
        noise: one number a channel, or None.
    """

    noise: Tensor | None

    def __init__(self, like: Tensor, learned: bool):
        super().__init__()
        self.mask = nn.Parameter(like.detach().new_ones(len(like)), requires_grad=learned)
        self.noise = None

    def forward(self, tensor: Tensor) -> Tensor:
        factor = self.mask if self.noise is None else self.mask + self.noise
        return tensor * factor.reshape(-1, *[1] * (tensor.ndim - 1))


@dataclass(frozen=True)
class Gates:
    """The gates of a model, in the order of registration.

    Args:
        weights: layer -> the gate on its weight, whose mask is learned.
        biases: layer -> the gate on its bias, for noise only.
    """

    weights: dict[str, Gate]
    biases: dict[str, Gate]

    def masks(self) -> dict[str, Float[Tensor, "c"]]:
        return {name: gate.mask.detach().clone() for name, gate in self.weights.items()}

    @torch.no_grad()
    def clip(self) -> None:
        """Bring the masks back to [0, 1]."""
        for gate in self.weights.values():
            gate.mask.clamp_(0, 1)

    def set_noise(self, noise: Sequence[Tensor | None]) -> None:
        """Set the noise of all weights' gates, then of all biases'."""
        for gate, values in zip(self.all(), noise, strict=True):
            gate.noise = values

    def all(self) -> list[Gate]:
        """Those on weights, then those on biases."""
        return [*self.weights.values(), *self.biases.values()]


def add_gates(model: nn.Module) -> Gates:
    """Put gates on a model's channels in place; their masks are all that is left to train.

    Raises:
        NotApplicable: it has no layer that gates fit.
    """
    names = gated_layers(model)
    model.requires_grad_(False)
    weights, biases = dict[str, Gate](), dict[str, Gate]()
    for name in names:
        layer = model.get_submodule(name)
        weights[name] = Gate(layer.get_parameter("weight"), learned=True)
        parametrize.register_parametrization(layer, "weight", weights[name])
        if layer.bias is not None:
            biases[name] = Gate(layer.get_parameter("bias"), learned=False)
            parametrize.register_parametrization(layer, "bias", biases[name])
    return Gates(weights, biases)


def gated_layers(model: nn.Module) -> list[str]:
    """Names of the layers that have gates.

    Raises:
        NotApplicable: there are none.
    """
    named = list(model.named_modules())
    batch = [name for name, m in named if isinstance(m, _BatchNorm) and m.affine]
    other = [name for name, m in named if isinstance(m, nn.GroupNorm | nn.LayerNorm)
             and m.weight is not None and m.weight.ndim == 1]
    rows = [name for name, m in named if isinstance(m, nn.Conv2d | nn.Linear)]
    if (found := batch or other or rows) and found is rows:
        last = head(model)
        found = [name for name in rows if model.get_submodule(name) is not last]
    if not found:
        raise NotApplicable(f"{type(model).__name__} has no normalisation with weights, and no convolution or linear "
                            "layer before its head, whose channels could be pruned")
    return found


@torch.no_grad()
def prune(model: nn.Module, channels: dict[str, Bool[Tensor, "c"]], *, biases: bool) -> None:
    """Set the weights of channels of normalisations, or of rows of other layers, to zero in place.

    Args:
        channels: layer -> True for those that go.
        biases: whether their biases go, too; what stays of a channel otherwise is its constant bias.
    """
    for name, gone in channels.items():
        layer = model.get_submodule(name)
        layer.get_parameter("weight")[gone] = 0
        if biases and layer.bias is not None:
            layer.get_parameter("bias")[gone] = 0


def pruned_by_mask(model: nn.Module, masks: dict[str, Float[Tensor, "c"]], thresholds: Sequence[float]) \
        -> Iterator[tuple[float, nn.Module]]:
    """(threshold, model) by growing thresholds, at which channels with masks up to it have no weight; 0 is the model
    as it is. One copy changes; biases stay, as in the published methods.
    """
    changing = copy.deepcopy(model)
    yield 0.0, changing
    for threshold in sorted(thresholds):
        prune(changing, {name: mask <= threshold for name, mask in masks.items()}, biases=False)
        yield threshold, changing
