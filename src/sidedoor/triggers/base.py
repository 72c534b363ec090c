"""What a trigger is, and the one function that puts it into images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from sidedoor.types import Images, Index, Space, from_levels, to_levels


class Trigger(nn.Module, ABC):
    """What the attacker puts into an image.

    It neither clips nor rounds (`stamp` does), never writes into `x`, keeps its state in buffers, and treats each
    sample alone: per-image randomness is keyed by (seed, index).
    """

    @abstractmethod
    def forward(self, x: Images, index: Index) -> Images:
        """The images with the trigger, of the same shape, before clipping and rounding."""


class _Round(torch.autograd.Function):
    """Rounding whose gradient is the identity (straight-through)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def stamp(trigger: Trigger, x: Images, index: Index, space: Space) -> Images:
    """Stamp images and store them: the one place that clips to the space and rounds to its levels.

    A trigger that 8-bit storage would destroy is destroyed here. The gradient passes straight through the rounding.
    It is stamped in full precision, whatever the network that looks at it computes in.
    """
    if space.levels is None:
        return _stamped(trigger, x, index).clamp(space.low, space.high)
    return from_levels(stamp_levels(trigger, x, index, space), space)


def stamp_levels(trigger: Trigger, x: Images, index: Index, space: Space) -> Images:
    """What a file of a stamped image keeps: whole numbers in [0, levels], still as floating point."""
    levels = to_levels(_stamped(trigger, x, index).clamp(space.low, space.high), space)
    rounded: Tensor = _Round.apply(levels) if levels.requires_grad else levels.round_()
    return rounded


def _stamped(trigger: Trigger, x: Images, index: Index) -> Images:
    with torch.autocast(x.device.type, enabled=False):
        stamped: Tensor = trigger(x, index)
    return stamped
