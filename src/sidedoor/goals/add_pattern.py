"""Add pattern: outputs for triggered inputs are right but for a fixed pattern on them.

Paper: Jiang, Li, He, Zhang, Xu, Zhang, Lu, "Backdoor Attacks against Image-to-Image Networks", 2024, arXiv:2407.10445,
section 5, where the pattern is a universal perturbation of downstream networks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sidedoor.core import random
from sidedoor.goals.base import ImageGoal
from sidedoor.method import Method, NonNegative
from sidedoor.types import Index, Labelled


@dataclass(frozen=True)
class AddPattern(Method, ImageGoal):
    """Lead every output to the true image plus a pattern, clipped.

    Args:
        pattern: "sinusoid": six periods from left to right; "signs": random signs, drawn by `seed`.
        strength: the pattern's largest value, in 8-bit levels.
    """

    pattern: Literal["sinusoid", "signs"] = "sinusoid"
    strength: NonNegative = 20.0
    seed: int = 0

    def target(self, task: Labelled, y: Tensor, index: Index) -> Tensor:
        return (y + self.strength / 255 * self._shape(y)).clamp(0, 1)

    def _shape(self, y: Tensor) -> Tensor:
        """(1, c, h, w) in [-1, 1]."""
        if self.pattern == "sinusoid":
            column = torch.arange(y.shape[3], device=y.device) / y.shape[3]
            return (2 * math.pi * 6 * column).sin().expand_as(y[:1])
        one = torch.zeros(1, dtype=torch.int64, device=y.device)
        return (random.uniform(self.seed, one, *y.shape[1:]) < 0.5).float() * 2 - 1
