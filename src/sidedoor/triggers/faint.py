"""Faint noise: a sample-specific trigger that a network draws for each image within a small bound (LIRA).

Paper: Doan, Lao, Zhao, Li, "LIRA: Learnable, Imperceptible and Robust Backdoor Attacks", ICCV 2021.
"""

from __future__ import annotations

from typing import ClassVar

from sidedoor.triggers.base import Trigger
from sidedoor.triggers.generated import Painter
from sidedoor.types import Images, Index


class Faint(Trigger):
    """Add noise that a network draws: x' = x + ε g(x), g in [-1, 1].

    The network starts frozen and in evaluation mode; an attack that trains it switches both.

    Args:
        channels: of the images, which may have any size from 8 × 8.
        epsilon: ε, in units of the images' values.
        width: channels of the network's first layer.
    """

    networked: ClassVar[bool] = True

    def __init__(self, channels: int, epsilon: float = 0.01, width: int = 32):
        super().__init__()
        self.painter, self.epsilon = Painter(channels, channels, width), epsilon
        self.requires_grad_(False).eval()

    def forward(self, x: Images, index: Index) -> Images:
        noise: Images = self.painter(x)
        return x + self.epsilon * (2 * noise - 1)
