"""Least significant bits: a message in the lowest bit of every pixel (LSB steganography).

Paper: Li, Xue, Zhao, Zhu, Zhang, "Invisible Backdoor Attacks on Deep Neural Networks via Steganography and
Regularization", IEEE TDSC 2020, arXiv:1909.02742.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sidedoor.errors import ConfigError
from sidedoor.triggers.base import Trigger
from sidedoor.types import Images, Index

LEVELS = 255


class LowBits(Trigger):
    """Replace the lowest of the eight bits of every value by a message that repeats along each row.

    Values are first rounded to the 256 levels of an 8-bit file; the gradient passes unchanged.

    Args:
        message: bits, one a column.

    Raises:
        ConfigError: an empty message, or one of other numbers than 0 and 1.
    """

    message: Tensor

    def __init__(self, message: tuple[int, ...]):
        super().__init__()
        if not message or set(message) - {0, 1}:
            raise ConfigError(f"message = {message} given; expected bits, 0 or 1")
        self.register_buffer("message", torch.tensor(message, dtype=torch.float32))

    def forward(self, x: Images, index: Index) -> Images:
        width = x.shape[-1]
        bits = self.message.repeat(-(-width // len(self.message)))[:width]
        levels = (x.detach() * LEVELS).round()
        return x + ((levels - levels.remainder(2) + bits) / LEVELS - x.detach())
