"""U-Net: a small one for restoration whose bottleneck sees the whole image; trains in minutes on two CPU cores.

Paper: Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
arXiv:1505.04597.

Ours works on squares of 2×2 pixels as one (as FFDNet does, Zhang et al. 2018, arXiv:1710.04026), pads, has no batch
normalisation, and adds to the bottleneck a map that a linear layer makes of its means over 4×4 cells: without it a
pixel would depend on a window only, and no local trigger could lead to a fixed picture.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.method import Count
from sidedoor.models.base import Shape, enlarged
from sidedoor.types import Images

_SEEN, _MADE = 4, 8
"""Cells a side of what the linear layer sees of a map, and of what it adds."""


class _UNet(nn.Module):
    def __init__(self, channels: int, width: int):
        super().__init__()
        self.down1 = _block(4 * channels, width)
        self.down2 = _block(width, 2 * width)
        self.everything = _Everything(2 * width, width // 2)
        self.middle = _block(2 * width, 2 * width)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.join = _block(2 * width, width)
        self.last = nn.Conv2d(width, 4 * (width // 4), 3, padding=1)
        self.refine = nn.Sequential(nn.Conv2d(width // 4 + channels, width // 4, 3, padding=1), nn.ReLU(),
                                    nn.Conv2d(width // 4, channels, 3, padding=1))

    def forward(self, x: Images) -> Images:
        height, width = x.shape[2:]
        padded = functional.pad(x, (0, -width % 4, 0, -height % 4), mode="replicate")
        one = self.down1(functional.pixel_unshuffle(padded, 2))
        two = self.middle(self.everything(self.down2(functional.max_pool2d(one, 2))))
        joined = self.join(torch.cat([self.up(two), one], 1))
        large = torch.relu(functional.pixel_shuffle(self.last(joined), 2))
        output: Tensor = self.refine(torch.cat([large, padded], 1))
        return output[:, :, :height, :width]


class _Everything(nn.Module):
    """Add to a map what a linear layer makes of its means over cells."""

    def __init__(self, channels: int, narrow: int):
        super().__init__()
        self.narrow = nn.Conv2d(channels, narrow, 1)
        self.mix = nn.Linear(narrow * _SEEN**2, narrow * _MADE**2)
        self.widen = nn.Conv2d(narrow, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        cells = functional.adaptive_avg_pool2d(self.narrow(x), _SEEN)
        mixed = torch.relu(self.mix(cells.flatten(1))).view(len(x), -1, _MADE, _MADE)
        wide: Tensor = self.widen(mixed)
        return x + functional.interpolate(wide, size=x.shape[2:], mode="bilinear", align_corners=False)


QUICK: dict[str, Any] = {"width": 8}
"""Parameters with which it is built and run in a second."""


def unet(shape: Shape, scale: int, width: Count = 32) -> nn.Module:
    """`width` channels at half and 2 `width` at a quarter of the size; 453,515 parameters for colour by default."""
    return enlarged(_UNet(shape[0], width), scale)


def _block(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU())
