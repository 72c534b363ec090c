"""Narrow networks in the first channels of every layer of a wide one: cut out of it and put into it."""

from __future__ import annotations

import copy

import torch
from torch import nn

from sidedoor.errors import ConfigError
from sidedoor.models.base import head, penultimate
from sidedoor.types import Images

Layer = nn.Conv2d | nn.Linear | nn.BatchNorm2d


def narrow(network: nn.Module, width: int) -> nn.Module:
    """Cut a network, in place, to the first channels of each layer, with a single output.

    Raises:
        ConfigError: it has layers whose channels are not its own, or too few channels.
    """
    last, layers = head(network), _layers(network)
    for place, layer in enumerate(layers):
        rows = 1 if layer is last else width
        if len(layer.weight) < rows:
            raise ConfigError(f"width {width} given, but a {type(layer).__name__} has {len(layer.weight)} channels")
        for name, value in [*layer.named_parameters(), *layer.named_buffers()]:
            if value.ndim:
                cut = value.detach()[:rows]
                cut = (cut[:, :width] if place and cut.ndim > 1 else cut).clone()
                setattr(layer, name, nn.Parameter(cut) if isinstance(value, nn.Parameter) else cut)
    return network


@torch.no_grad()
def implant(network: nn.Module, part: nn.Module, output: int, scale: float) -> nn.Module:
    """A copy of a network with a narrow one in its first channels, cut off from the others.

    Args:
        part: a network that `narrow` has cut from the same architecture.
        output: of the network, to which `scale` times the narrow one's output is added; all other outputs are cut off
            from those channels.
    """
    network = copy.deepcopy(network)
    last = head(network)
    for place, (whole, own) in enumerate(zip(_layers(network), _layers(part), strict=True)):
        rows = len(own.weight)
        if isinstance(whole, nn.BatchNorm2d):
            there = whole.state_dict()
            for name, value in own.state_dict().items():
                if value.ndim:
                    there[name][:rows] = value
            continue
        weight, bias, columns = whole.weight, whole.bias, own.weight.shape[1]
        if place:
            weight[:, :columns] = 0
        if whole is last:
            weight[output, :columns] = scale * own.weight[0]
            if bias is not None and own.bias is not None:
                bias[output] += scale * own.bias[0]
            continue
        weight[:rows] = 0
        weight[:rows, :columns] = own.weight
        if bias is not None and own.bias is not None:
            bias[:rows] = own.bias
    return network


@torch.no_grad()
def check_apart(network: nn.Module, part: nn.Module, x: Images) -> None:
    """Check that the first channels depend on the image alone, and that the other channels do not depend on them.

    Args:
        part: an untrained network from `narrow`.
        x: images to check it with.

    Raises:
        ConfigError: they do depend, or the narrow network's shapes do not fit together.
    """
    part, silent = copy.deepcopy(part), copy.deepcopy(part)
    for parameter in silent.parameters():
        parameter.zero_()
    why = "other channels are mixed into them"
    try:
        own, with_it, without = (penultimate(net.eval(), x)[1] for net in (
            part, implant(network, part, 0, 1.0), implant(network, silent, 0, 1.0)))
        k = own.shape[1]
        apart = all(torch.allclose(one, two, rtol=1e-3, atol=1e-4) for one, two in (
            (with_it[:, :k], own), (with_it[:, k:], without[:, k:])))
    except RuntimeError as error:
        apart, why = False, str(error)
    if not apart:
        raise ConfigError(f"the first channels of this network cannot be kept apart: {why}; expected convolutions with "
                          "plain skips, such as small_cnn, resnet18 or vgg19_bn")


def _layers(network: nn.Module) -> list[Layer]:
    found: list[Layer] = []
    for module in network.modules():
        if next(module.parameters(recurse=False), None) is None:
            continue
        if not isinstance(module, Layer) or getattr(module, "groups", 1) != 1:
            raise ConfigError(f"{module} found; expected convolutions without groups, batch norms and linear layers, "
                              "whose first channels can be cut off from the others")
        found.append(module)
    return found
