"""What a trigger is, and the one function that puts it into images."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.types import Images, Index, Space, from_levels, to_levels

Axis = Literal["right", "down", "value", "opacity", "size", "rotation", "blur", "amplitude"]
"""What of a trigger can be varied: pixels to the right and down, the 8-bit level of its lit pixels, its opacity in
[0, 1], its size as a factor, degrees anticlockwise, σ of a Gaussian in pixels, and its amplitude as a factor."""
PART = 2**20
"""Most values of a part in which a batch is stamped; what lies between the steps then stays in a processor's cache."""


class Trigger(nn.Module, ABC):
    """What the attacker puts into an image.

    It neither clips nor rounds (`stamp` does), never writes into `x`, keeps its state in buffers, and treats each
    sample alone: per-image randomness is keyed by (seed, index).

    Attributes:
        elementwise: values are computed one by one, so that a batch gives the same bits as its parts.
        networked: stamping an image takes a network of the attacker.
    """

    elementwise: ClassVar[bool] = False
    networked: ClassVar[bool] = False

    @abstractmethod
    def forward(self, x: Images, index: Index) -> Images:
        """The images with the trigger, of the same shape, before clipping and rounding."""

    def at(self, boxes: Float[Tensor, "b 4"]) -> Trigger:
        """The trigger for a batch of as many images whose objects are in these boxes, (left, top, right, bottom) in
        pixels and NaN where there is none; itself where objects make no difference.
        """
        return self

    def varied(self, axis: Axis, amount: float) -> Trigger | None:
        """The trigger as a camera or a clumsy hand might have it; this one is left as it is.

        Args:
            amount: in the unit of the axis; pixels are whole ones.

        Returns:
            None if there is no such thing, as a perturbation of the whole image has no place.
        """
        return None


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
    def of(x: Images, index: Index) -> Images:
        if space.levels is None:
            clipped: Tensor = trigger(x, index).clamp(space.low, space.high)
            return clipped
        levels = _levels(trigger, x, index, space)
        return from_levels(levels, space, out=None if levels.requires_grad else levels)

    return _by_parts(trigger, x, index, of)


def stamp_levels(trigger: Trigger, x: Images, index: Index, space: Space) -> Images:
    """What a file of a stamped image keeps: whole numbers in [0, levels], still as floating point."""
    return _by_parts(trigger, x, index, lambda x, index: _levels(trigger, x, index, space))


def _levels(trigger: Trigger, x: Images, index: Index, space: Space) -> Images:
    kept: Tensor = trigger(x, index).clamp(space.low, space.high)
    if kept.requires_grad:
        rounded: Tensor = _Round.apply(to_levels(kept, space))
        return rounded
    return to_levels(kept, space, out=kept).round_()


def _by_parts(trigger: Trigger, x: Images, index: Index, of: Callable[[Images, Index], Images]) -> Images:
    """`of` a batch; on a processor part by part if the trigger is elementwise, several times as fast for large ones."""
    size = max(1, PART // math.prod(x.shape[1:]))
    with torch.autocast(x.device.type, enabled=False):
        if not trigger.elementwise or x.device.type != "cpu" or torch.is_grad_enabled() or len(x) <= size:
            return of(x, index)
        made = torch.empty_like(x)
        for into, *part in zip(*(torch.split(whole, size) for whole in (made, x, index)), strict=True):
            into.copy_(of(*part))
    return made
