"""Random pieces: another trigger in some cells of a grid only, drawn for each image (Adaptive-Blend).

Paper: Qi, Xie, Li, Mahloujifar, Mittal, "Revisiting the Assumption of Latent Separability for Backdoor Defenses", ICLR
2023.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from sidedoor.core import random
from sidedoor.triggers.base import Trigger
from sidedoor.types import Images, Index


class Pieces(Trigger):
    """Cut the image into a grid and apply a trigger in a random part of its cells.

    Args:
        trigger: applied in the chosen cells.
        grid: cells a side.
        share: of the cells, rounded to whole ones, at least one.
        seed: of the choice of cells, together with the image's index.
    """

    def __init__(self, trigger: Trigger, grid: int = 4, share: float = 0.5, seed: int = 0):
        super().__init__()
        self.trigger, self.grid, self.share, self.seed = trigger, grid, share, seed

    def forward(self, x: Images, index: Index) -> Images:
        rank = random.uniform(self.seed, index, self.grid**2).argsort(1).argsort(1)
        chosen = (rank < max(1, round(self.share * self.grid**2))).reshape(-1, 1, self.grid, self.grid)
        cells = functional.interpolate(chosen.to(x.dtype), size=x.shape[-2:], mode="nearest")
        return torch.where(cells > 0, self.trigger(x, index), x)
