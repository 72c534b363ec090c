"""Quantisation trigger: fewer levels a channel, with Floyd-Steinberg dithering (BppAttack).

Papers: Wang, Zhai, Ma, "BppAttack", CVPR 2022, arXiv:2205.13383; Floyd, Steinberg, "An Adaptive Algorithm for Spatial
Greyscale", Proceedings of the SID 1976.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from sidedoor.errors import ConfigError
from sidedoor.triggers.base import Trigger
from sidedoor.types import Images, Index

DIFFUSED = ((0, 1, 7 / 16), (1, -1, 3 / 16), (1, 0, 5 / 16), (1, 1, 1 / 16))
"""(rows down, columns right, share of the error)."""


class Quantized(Trigger):
    """Round every value to one of a few levels, by Floyd and Steinberg's dithering; the gradient passes unchanged.

    Args:
        levels: of each channel, evenly spread over [0, 1].

    Raises:
        ConfigError: fewer than two.
    """

    def __init__(self, levels: int = 8):
        super().__init__()
        if levels < 2:
            raise ConfigError(f"levels = {levels} given; expected at least 2")
        self.levels = levels

    def forward(self, x: Images, index: Index) -> Images:
        return x + (dithered(x.detach(), self.levels) - x.detach())


def dithered(x: Images, levels: int) -> Images:
    """Images with that number of levels a channel, evenly spread over [0, 1].

    A pixel receives errors from its left neighbour and from three above. Pixels with the same column + 2 row receive
    none from each other, so that they are rounded together.
    """
    height, width = x.shape[2:]
    # A margin takes the errors that leave the image.
    canvas = functional.pad(x, (1, 1, 0, 1))
    for front in range(width + 2 * (height - 1)):
        row = torch.arange(max(0, (front - width + 2) // 2), min(height - 1, front // 2) + 1, device=x.device)
        column = front - 2 * row + 1
        old = canvas[:, :, row, column]
        new = (old * (levels - 1)).round().clamp(0, levels - 1) / (levels - 1)
        canvas[:, :, row, column] = new
        for down, right, share in DIFFUSED:
            canvas[:, :, row + down, column + right] += (old - new) * share
    return canvas[:, :, :height, 1 : width + 1]
