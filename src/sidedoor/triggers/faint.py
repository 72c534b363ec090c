"""Faint noise that a network draws for each image."""

from __future__ import annotations

from torch import nn

from sidedoor.triggers.base import Trigger
from sidedoor.triggers.generated import Painter
from sidedoor.types import Images, Index


class Faint(Trigger):
    """Add what a network draws: x' = x + ε g(x), g in [-1, 1].

    The network is frozen and in evaluation mode until who trains it says otherwise.

    Args:
        channels: of the images, which may have any size from 8 × 8.
        epsilon: ε, in units of the images' values.
        width: channels of the network's first layer.
    """

    painter: nn.Module

    def __init__(self, channels: int, epsilon: float = 0.01, width: int = 32):
        super().__init__()
        self.painter, self.epsilon = Painter(channels, channels, width), epsilon
        self.requires_grad_(False).eval()

    def forward(self, x: Images, index: Index) -> Images:
        drawn: Images = self.painter(x)
        return x + self.epsilon * (2 * drawn - 1)
