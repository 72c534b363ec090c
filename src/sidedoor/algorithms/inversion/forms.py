"""What a trigger under optimisation is made of, and how it is put onto images.

Papers: a mask and a pattern, Wang et al., "Neural Cleanse", IEEE Symposium on Security and Privacy 2019; a change of
few pixels, Tao, Shen, Liu, An, Xu, Ma, Li, Zhang, "Better Trigger Inversion Optimization in Backdoor Scanning", CVPR
2022.
"""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from sidedoor.types import Space

Masks = Float[Tensor, "g 1 1 h w"]
Patterns = Float[Tensor, "g 1 c h w"]
Stack = Float[Tensor, "g b c h w"]

COUNTED = 5.0
"""The slope at which a changed value begins to count as a changed pixel: a change of a tenth counts half. With that of
the paper, ten levels of 255, tanh is flat wherever a pixel is changed, and triggers of digits stay several times as
large."""


class Form(Protocol):
    """What a trigger is made of.

    Attributes:
        start: the largest value that a parameter starts with.
        caption: of its picture.
    """

    start: float
    caption: str

    def planes(self, channels: int) -> int:
        """How many parameters a pixel has."""
        ...

    def read(self, unit: Float[Tensor, "g d h w"]) -> tuple[Float[Tensor, "g 1 h w"], Float[Tensor, "g c h w"]]:
        """Masks and patterns of parameters in [0, 1]; the sum of a mask is its size in pixels."""
        ...

    def stamped(self, x: Float[Tensor, "b c h w"], mask: Masks, pattern: Patterns, space: Space) -> Stack:
        """All images with each trigger."""
        ...

    def picture(self, mask: Float[Tensor, "1 h w"], pattern: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
        """A trigger to look at, in [0, 1]."""
        ...


class Replaced:
    """A pattern that replaces what its mask covers."""

    start, caption = 1.0, "recovered mask × pattern"

    def planes(self, channels: int) -> int:
        return 1 + channels

    def read(self, unit: Float[Tensor, "g d h w"]) -> tuple[Float[Tensor, "g 1 h w"], Float[Tensor, "g c h w"]]:
        return unit[:, :1], unit[:, 1:]

    def stamped(self, x: Float[Tensor, "b c h w"], mask: Masks, pattern: Patterns, space: Space) -> Stack:
        return (1 - mask) * x + mask * (pattern * (space.high - space.low) + space.low)

    def picture(self, mask: Float[Tensor, "1 h w"], pattern: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
        return mask * pattern


class Added:
    """A change of few pixels that is added: what raises and what lowers each value. The mask says which count."""

    start, caption = 0.1, "recovered change of pixels, grey is no change"

    def planes(self, channels: int) -> int:
        return 2 * channels

    def read(self, unit: Float[Tensor, "g d h w"]) -> tuple[Float[Tensor, "g 1 h w"], Float[Tensor, "g c h w"]]:
        up, down = unit.chunk(2, 1)
        return torch.tanh(COUNTED * (up + down)).amax(1, keepdim=True), up - down

    def stamped(self, x: Float[Tensor, "b c h w"], mask: Masks, pattern: Patterns, space: Space) -> Stack:
        return (x + pattern * (space.high - space.low)).clamp(space.low, space.high)

    def picture(self, mask: Float[Tensor, "1 h w"], pattern: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
        return (pattern + 1) / 2
