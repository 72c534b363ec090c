"""Additive trigger: a fixed pattern, such as a universal perturbation or one draw of noise, added to every image."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sidedoor.errors import ConfigError
from sidedoor.triggers.base import Axis, Trigger
from sidedoor.types import Images, Index


class Additive(Trigger):
    """Add a pattern.

    Args:
        pattern: (c, h, w) of the images' shape, in their units.

    Raises:
        ConfigError: images of another shape.
    """

    pattern: Tensor

    def __init__(self, pattern: Float[Tensor, "c h w"]):
        super().__init__()
        self.register_buffer("pattern", pattern)

    def forward(self, x: Images, index: Index) -> Images:
        if x.shape[1:] != self.pattern.shape:
            raise ConfigError(f"images of shape {tuple(x.shape[1:])} given to a pattern of shape "
                              f"{tuple(self.pattern.shape)}; cut them to that size")
        return x + self.pattern

    def varied(self, axis: Axis, amount: float) -> Trigger | None:
        return Additive(amount * self.pattern) if axis == "amplitude" else None
