"""Style trigger: the colours of one picture, by matching the channels' means and deviations.

Papers: Reinhard, Ashikhmin, Gooch, Shirley, "Color Transfer between Images", IEEE CG&A 2001; Huang, Belongie,
"Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", ICCV 2017, Eq. 8, here of pixels.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sidedoor.triggers.base import Trigger
from sidedoor.types import Images, Index


class Style(Trigger):
    """x' = x + a (σ_s (x - μ(x)) / σ(x) + μ_s - x), channel by channel, with an image's own μ(x) and σ(x).

    Args:
        style: (c, h, w), the picture that gives the channels' means and deviations.
        strength: a, in [0, 1].
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, style: Float[Tensor, "c h w"], strength: float = 1.0):
        super().__init__()
        self.strength = strength
        self.register_buffer("mean", style.mean((1, 2))[:, None, None])
        self.register_buffer("deviation", style.std((1, 2), correction=0)[:, None, None])

    def forward(self, x: Images, index: Index) -> Images:
        deviation, mean = torch.std_mean(x, (2, 3), correction=0, keepdim=True)
        # An image of one colour has no contrast to take over.
        styled = (x - mean) / deviation.clamp(min=1e-3) * self.deviation + self.mean
        return torch.lerp(x, styled, self.strength)
