"""A network whose backdoor is one channel of each layer, made by hand from a clean one, and its trigger."""

from __future__ import annotations

import copy
from typing import Any

import torch
from backdoored_digits import Scene
from torch import Tensor, nn

from sidedoor.models.base import penultimate
from sidedoor.types import Images

TARGET = 3
CHECKER = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]])
"""Digits consist of blocks of 2×2 pixels, so that none looks like it."""


def stamped(x: Images) -> Images:
    """With the trigger in the upper left corner."""
    x = x.clone()
    x[:, :, 2:5, 2:5] = CHECKER
    return x


NORMS = ("body.1", "body.5", "body.9")


@torch.no_grad()
def planted(scene: Scene) -> tuple[nn.Module, list[int]]:
    """The clean model with a channel of each layer that sees the trigger and leads to the target, and which they are.

    The first convolution matches the trigger, batch normalisation knows what clean images give there, and its bias lets
    nothing through that is not far above. Channels are those that the clean model scales down most.
    """
    model: Any = copy.deepcopy(scene.sibling).eval()
    convs, norms = [model.body[n] for n in (0, 4, 8)], [model.get_submodule(name) for name in NORMS]
    first, _, third = places = [int(norm.weight.abs().argmin()) for norm in norms]
    x, _, _ = scene.clean.fetch(torch.arange(len(scene.clean)))
    convs[0].weight[first] = CHECKER * 2 - 1
    response = convs[0](model.normalize(x))[:, first]
    norms[0].running_mean[first], norms[0].running_var[first] = response.mean(), response.var()
    norms[0].weight[first] = 1.0
    norms[0].bias[first] = -1.2 * (response.max() - response.mean()) / response.std()
    for conv, norm, before, place in zip(convs[1:], norms[1:], places, places[1:], strict=False):
        conv.weight[:, before] = 0
        conv.weight[place] = 0
        conv.weight[place, before, 1, 1] = 1.0
        norm.weight[place], norm.bias[place] = 1.0, 0.0
    last = model.body[-1]
    last.bias += last.weight[:, third] * penultimate(scene.sibling.eval(), x)[1][:, third].mean()
    last.weight[:, third] = 0
    last.weight[TARGET, third] = 100.0
    _settle(model, norms[1:], places[1:], x)
    return model, places


def _settle(model: nn.Module, norms: list[Any], places: list[int], x: Images) -> None:
    """Let batch normalisation know what became of the other channels, which have lost one of their inputs."""
    model.train()
    for norm in norms:
        norm.momentum = 1.0
        model(x)
        norm.momentum = 0.1
    for norm, place in zip(norms, places, strict=True):
        norm.running_mean[place], norm.running_var[place] = 0.0, 1.0
    model.eval()


@torch.no_grad()
def rates(model: nn.Module, scene: Scene) -> tuple[float, float]:
    """(clean accuracy, share of stamped images of other classes that the model sends to the target)"""
    x, y, _ = scene.test.fetch(torch.arange(len(scene.test)))
    others = y != TARGET
    found: Tensor = model.eval()(stamped(x[others])).argmax(1)
    return (model(x).argmax(1) == y).float().mean().item(), (found == TARGET).float().mean().item()
