"""Warp trigger: a smooth elastic distortion of the whole image (WaNet).

Paper: Nguyen, Tran, "WaNet: Imperceptible Warping-based Backdoor Attack", ICLR 2021, arXiv:2102.10369.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from sidedoor.triggers.base import Trigger
from sidedoor.types import Images, Index


class Warp(Trigger):
    """Resample the image bilinearly at positions displaced by a smooth field.

    The control values are divided by their mean magnitude, upsampled bicubically to the image and multiplied by
    `strength` over the image's width (height). Positions run from -1 to 1, so the mean displacement at the control
    points is about strength / 2 pixels.

    Args:
        control: (2, k, k) displacements to the right and down at k × k control points, in any unit.
        strength: s, at least 0; 0 leaves the image as it is.
        size: (height, width) of the images.
    """

    grid: Tensor

    def __init__(self, control: Float[Tensor, "2 k k"], strength: float, size: tuple[int, int]):
        super().__init__()
        height, width = size
        smooth = functional.interpolate((control / control.abs().mean())[None], size=size, mode="bicubic",
                                        align_corners=True)[0].permute(1, 2, 0)
        down, right = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        displaced = torch.stack([right, down], -1) + strength * smooth / torch.tensor([width, height])
        self.register_buffer("grid", displaced.clamp(-1, 1))

    def forward(self, x: Images, index: Index) -> Images:
        return resample(x, self.grid.expand(len(x), -1, -1, -1))


def resample(x: Images, grid: Float[Tensor, "b h w 2"]) -> Images:
    """The images' values, bilinear, at (right, down) positions in which -1 and 1 are the centres of the edge pixels."""
    return functional.grid_sample(x, grid, mode="bilinear", align_corners=True)
