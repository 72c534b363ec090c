"""Sinusoid: a vertical grating added to the whole image (SIG).

Paper: Barni, Kallas, Tondi, "A New Backdoor Attack in CNNs by Training Set Corruption without Label Poisoning",
ICIP 2019, arXiv:1902.11237.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch

from sidedoor.errors import ConfigError
from sidedoor.triggers.base import Axis, Trigger
from sidedoor.types import Images, Index


class Sinusoid(Trigger):
    """Add delta sin(2π j f / w) to column j = 1, ..., w of every channel.

    Args:
        delta: amplitude, in units of the images' values (20/255 is 20 grey levels).
        frequency: f, periods across the width.

    Raises:
        ConfigError: 2f is a multiple of the width, so that the wave is zero at every pixel.
    """

    elementwise: ClassVar[bool] = True

    def __init__(self, delta: float = 20 / 255, frequency: int = 6):
        super().__init__()
        self.delta, self.frequency = delta, frequency

    def forward(self, x: Images, index: Index) -> Images:
        width = x.shape[-1]
        if 2 * self.frequency % width == 0:
            raise ConfigError(f"frequency = {self.frequency} given; a wave of it is zero at all {width} columns of the "
                              "image: choose one of which the double is no multiple of the width")
        column = torch.arange(1, width + 1, device=x.device)
        return x + self.delta * torch.sin(column * (2 * math.pi * self.frequency / width))

    def varied(self, axis: Axis, amount: float) -> Trigger | None:
        return Sinusoid(amount * self.delta, self.frequency) if axis == "amplitude" else None
