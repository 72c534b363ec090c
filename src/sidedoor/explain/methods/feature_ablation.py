"""Feature ablation: how far the log-probability of a class falls without a cell of a grid, averaged over grids.

Paper: Kokhlikyan, Miglani, Martin, Wang, Alsallakh, Reynolds, Melnikov, Kliushkina, Araya, Yan, Reblitz-Richardson,
"Captum: A Unified and Generic Model Interpretability Library for PyTorch", 2020, arXiv:2009.07896.

Computed by captum, grid by grid as in the released evaluation of GLBW (ICLR 2024).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sidedoor.defenses.base import Needs
from sidedoor.explain.base import Explainer, log_probability, one_channel
from sidedoor.explain.library import captum
from sidedoor.method import Count, Share
from sidedoor.types import Images


@dataclass(frozen=True)
class FeatureAblation(Explainer):
    """Fill each cell of each grid in turn; a pixel has the mean change over the grids.

    Args:
        cells: sides of the cells in pixels, one grid each.
        fill: value of the pixels of a cell.
        batch: changed copies in one pass.
    """

    origins: ClassVar[dict[str, str]] = {
        "cells": "release: 1, 2, 4, 8 and 16 (GLBW)", "fill": "ours: grey, as occlusion", "batch": "ours: memory",
    }
    quick: ClassVar[dict[str, Any]] = {"cells": (4, 8)}
    needs: ClassVar[Needs] = Needs(model="probabilities")

    cells: tuple[Count, ...] = (1, 2, 4, 8, 16)
    fill: Share = 0.5
    batch: Count = 1024

    def saliency(self, model: nn.Module, x: Images, target: Int[Tensor, "b"]) -> Float[Tensor, "b h w"]:
        method = captum("feature_ablation").FeatureAblation(log_probability(model))
        maps = [method.attribute(x, self.fill, target, feature_mask=_grid(x, cell),
                                 perturbations_per_eval=max(1, self.batch // len(x))) for cell in self.cells]
        return torch.stack([one_channel(each) for each in maps]).mean(0)


def _grid(x: Images, cell: int) -> Int[Tensor, "1 1 h w"]:
    """The number of the cell that each pixel is in."""
    height, width = x.shape[-2:]
    down, across = (torch.arange(side, device=x.device) // cell for side in (height, width))
    numbers: Tensor = down[:, None] * math.ceil(width / cell) + across
    return numbers[None, None]
