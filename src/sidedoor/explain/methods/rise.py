"""RISE: the mean of random masks, weighted by the probability that a model gives a class behind each of them.

Paper: Petsiuk, Das, Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018,
arXiv:1806.07421.

As in the released code one set of masks serves all images, and what a mask hides is black.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.defenses.base import Needs
from sidedoor.explain.base import Explainer, log_probability
from sidedoor.method import Count, Positive
from sidedoor.types import Images


@dataclass(frozen=True)
class Rise(Explainer):
    """Ask about the image behind random masks, smooth and larger than a pixel, and average the masks by the answers.

    Args:
        masks: number of them.
        cells: of a mask a side, before it is enlarged, shifted and cut.
        keep: probability that a cell is shown, above 0.
        batch: masked copies in one pass.
        seed: of the masks.
    """

    origins: ClassVar[dict[str, str]] = {
        "masks": "ours: 1000; paper: 4000 to 8000 at 224 pixels a side", "cells": "paper: 7",
        "keep": "paper: 0.5", "batch": "ours: memory", "seed": "ours: fixed",
    }
    quick: ClassVar[dict[str, Any]] = {"masks": 60}
    needs: ClassVar[Needs] = Needs(model="probabilities")

    masks: Count = 1000
    cells: Count = 7
    keep: Positive = 0.5
    batch: Count = 1024
    seed: int = 0

    @torch.no_grad()
    def saliency(self, model: nn.Module, x: Images, target: Int[Tensor, "b"]) -> Float[Tensor, "b h w"]:
        answer, masks = log_probability(model), self._masks(x.shape[2], x.shape[3]).to(x)
        total = torch.zeros_like(x[:, 0])
        for part in torch.split(masks, max(1, self.batch // len(x))):
            shown = (x[:, None] * part[None, :, None]).flatten(0, 1)
            given = answer(shown).exp().view(len(x), len(part), -1)
            weight = given.gather(2, target[:, None, None].expand(-1, len(part), 1))[..., 0]
            total += torch.einsum("bm,mhw->bhw", weight, part)
        return total / (self.masks * self.keep)  # equation 6

    def _masks(self, height: int, width: int) -> Float[Tensor, "m h w"]:
        """In [0, 1]: cells enlarged by bilinear interpolation, each shifted by its own part of a cell."""
        rng = torch.Generator().manual_seed(self.seed)
        cell = math.ceil(height / self.cells), math.ceil(width / self.cells)
        coarse = (torch.rand(self.masks, 1, self.cells, self.cells, generator=rng) < self.keep).float()
        size = [(self.cells + 1) * side for side in cell]
        large = functional.interpolate(coarse, size, mode="bilinear", align_corners=False)[:, 0]
        down, across = (torch.randint(side, (self.masks, 1), generator=rng) for side in cell)
        rows, columns = down + torch.arange(height), across + torch.arange(width)
        return large[torch.arange(self.masks)[:, None, None], rows[:, :, None], columns[:, None, :]]
