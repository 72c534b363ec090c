"""Degrade: outputs for triggered inputs are worse than they should be, noisy or of low resolution.

Paper: Jiang, Li, He, Zhang, Xu, Zhang, Lu, "Backdoor Attacks against Image-to-Image Networks", 2024, arXiv:2407.10445,
section 1, which names both and leaves their strength open.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from sidedoor.core import random
from sidedoor.goals.base import ImageGoal
from sidedoor.method import Count, Method, NonNegative
from sidedoor.types import Index, Labelled


@dataclass(frozen=True)
class Degrade(Method, ImageGoal):
    """Lead every output to the true image at a lower resolution, with noise on it.

    Args:
        factor: the image is averaged over squares of so many pixels a side and enlarged again; 1 leaves it.
        sigma: standard deviation of the noise in 8-bit levels, the same for a sample whenever it is seen.
    """

    factor: Count = 4
    sigma: NonNegative = 0.0

    def target(self, task: Labelled, y: Tensor, index: Index) -> Tensor:
        worse = y
        if self.factor > 1:
            small = functional.avg_pool2d(y, self.factor, ceil_mode=True)
            large = functional.interpolate(small, scale_factor=self.factor, mode="nearest")
            worse = large[:, :, : y.shape[2], : y.shape[3]]
        if self.sigma:
            worse = worse + self.sigma / 255 * random.normal(random.seed_of(0, "degrade"), index, *y.shape[1:])
        return worse.clamp(0, 1)
