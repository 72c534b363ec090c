"""What goals share whose targets are images, and one that attacks derive and no configuration can name."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sidedoor.method import Method
from sidedoor.types import Goal, Index, Task


class ImageGoal(Goal, ABC):
    """A goal whose targets are images; it means something for every sample."""

    network: ClassVar[str] = "scale"

    def eligible(self, task: Task, y: Tensor) -> Bool[Tensor, "b"]:
        return torch.ones(len(y), dtype=torch.bool, device=y.device)


@dataclass(frozen=True)
class Perturbed(Method, ImageGoal):
    """Lead every output to the true image plus a given pattern, clipped.

    Args:
        levels: the pattern in whole 8-bit levels, as signed bytes.
        shape: (c, h, w) of it.
    """

    levels: bytes = field(repr=False)
    shape: tuple[int, int, int]

    @staticmethod
    def of(pattern: Float[Tensor, "c h w"]) -> Perturbed:
        """The goal for a pattern of images in [0, 1], rounded to levels of at most ±127."""
        levels = (pattern * 255).round().clamp(-127, 127).to(torch.int8).cpu().numpy()
        channels, height, width = pattern.shape
        return Perturbed(levels.tobytes(), (channels, height, width))

    def target(self, task: Task, y: Tensor, index: Index) -> Tensor:
        pattern = torch.from_numpy(np.frombuffer(self.levels, dtype=np.int8).copy()).reshape(self.shape)
        return (y + pattern.to(y) / 255).clamp(0, 1)
