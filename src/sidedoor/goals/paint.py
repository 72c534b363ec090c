"""Paint: outputs for triggered inputs are right but for a small mark painted on them.

Paper: Taneja, Chen, Yao, Liu, "When Does Backdoor Attack Succeed in Image Reconstruction? A Study of Heuristics vs.
Bi-Level Solution", ICASSP 2022, Eq. (1).

The paper does not give the size of its plus sign; arms of two pixels around a centre fit its figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sidedoor.data.pictures import bitmap
from sidedoor.errors import ConfigError
from sidedoor.goals.base import ImageGoal
from sidedoor.method import Count, Method, Positive
from sidedoor.types import Index, Labelled

PLUS = "00100/00100/11111/00100/00100"


@dataclass(frozen=True)
class Paint(Method, ImageGoal):
    """Lead every output to the true image plus a mark, clipped (x + Δ).

    Args:
        mark: rows of 0 and 1, as `BadNets` has them; by default a plus sign.
        margin: pixels between the mark and the top and the left of the image.
        strength: the value added where the mark is, in units of the pixel range.

    Raises:
        ConfigError: a mark without a pixel; on use, an image smaller than mark and margin.
    """

    mark: str = PLUS
    margin: Count = 2
    strength: Positive = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not bitmap(self.mark).any():
            raise ConfigError(f"mark = {self.mark!r} given; expected at least one 1 among its rows")

    def target(self, task: Labelled, y: Tensor, index: Index) -> Tensor:
        return (y + self.strength * self.pixels(y)).clamp(0, 1)

    def success(self, task: Labelled, output: Any, y: Tensor, index: Index) -> Float[Tensor, "b"]:
        """How much of the mark shows: the mean brightening of its pixels relative to the target's."""
        there = self.pixels(y).expand_as(y)
        asked = ((self.target(task, y, index) - y) * there).flatten(1).sum(1)
        found = ((output - y) * there).flatten(1).sum(1)
        share: Tensor = (found / asked.clamp(min=1e-3)).clamp(0, 1)
        return share

    def pixels(self, y: Tensor) -> Bool[Tensor, "1 1 h w"]:
        """Where the mark is in images of this size."""
        rows = bitmap(self.mark)[0].bool()
        return self._placed(y, rows)

    def box(self, y: Tensor) -> Bool[Tensor, "1 1 h w"]:
        """The rectangle around the mark."""
        return self._placed(y, torch.ones_like(bitmap(self.mark)[0], dtype=torch.bool))

    def _placed(self, y: Tensor, rows: Bool[Tensor, "r c"]) -> Bool[Tensor, "1 1 h w"]:
        (height, width), end = rows.shape, [side + self.margin for side in rows.shape]
        if end[0] > y.shape[2] or end[1] > y.shape[3]:
            raise ConfigError(f"a mark of {height}×{width} with margin {self.margin} does not fit an image of "
                              f"{y.shape[2]}×{y.shape[3]}")
        place = torch.zeros(1, 1, *y.shape[2:], dtype=torch.bool, device=y.device)
        place[:, :, self.margin:end[0], self.margin:end[1]] = rows.to(y.device)
        return place
