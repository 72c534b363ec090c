"""Receptive fields of networks: an output pixel that cannot see the trigger cannot depend on it."""

from __future__ import annotations

import torch
from torch import nn

from sidedoor.engine import seeded


def receptive_field(model: nn.Module, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Height and width of the part of an input that the central output pixel depends on, as measured by gradients.

    At most the input's size: a network that sees everything has the size of the input. Networks that return several
    images are judged by the first, in evaluation mode, on random inputs.
    """
    channels, height, width = shape
    training = model.training
    with seeded(0, torch.device("cpu")):
        x = torch.rand(8, channels, height, width, device=next(model.parameters()).device)
    x.requires_grad_(True)
    output = model.eval()(x)
    first = output[0] if isinstance(output, tuple | list) else output
    (gradient,) = torch.autograd.grad(first[:, :, first.shape[2] // 2, first.shape[3] // 2].sum(), x)
    model.train(training)
    rows, columns = (torch.nonzero(gradient.abs().sum((0, 1, 3 - axis)))[:, 0] for axis in (0, 1))
    if len(rows) == 0:
        return 0, 0
    return int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1


def sees_everything(model: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether the last output pixel, bottom right, depends on the first input pixel, top left."""
    x = torch.rand(1, *shape, device=next(model.parameters()).device)
    x.requires_grad_(True)
    training = model.training
    output = model.eval()(x)
    model.train(training)
    first = output[0] if isinstance(output, tuple | list) else output
    (gradient,) = torch.autograd.grad(first[:, :, -1, -1].sum(), x)
    return bool(gradient[:, :, 0, 0].abs().sum() > 0)
