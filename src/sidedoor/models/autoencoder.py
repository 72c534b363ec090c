"""Autoencoder: four convolutions and three transposed ones, 233 thousand parameters, to reconstruct digits.

Paper: Taneja, Chen, Yao, Liu, "When Does Backdoor Attack Succeed in Image Reconstruction? A Study of Heuristics vs.
Bi-Level Solution", ICASSP 2022, section 4.1.

The paper gives the numbers of layers and of parameters, which two networks have. With kernels of 3×3 (1-40-72-128, back
over 128-72-40-40, a last convolution: 233,241 parameters) an output pixel in one corner depends on nothing in the
opposite one. With 5×5 (1-32-32-32-32, back over 32-64-64: 233,057) it does, on images of 28 pixels. Weights start as
Glorot's, as in the TensorFlow that the authors used; the output is linear.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from sidedoor.models.base import Shape, enlarged
from sidedoor.types import Images


class _Autoencoder(nn.Module):
    def __init__(self, channels: int, kernel: int):
        super().__init__()
        half = kernel // 2
        down, up = ([40, 72, 128], [72, 40, 40]) if kernel == 3 else ([32, 32, 32], [64, 64, channels])
        self.down = nn.ModuleList(nn.Conv2d(a, b, kernel, 2, half) for a, b in pairwise([channels, *down]))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, kernel, 2, half) for a, b in pairwise([down[-1], *up]))
        # The fourth convolution: at the full size after all others, or at the smallest between the two halves.
        self.last = nn.Conv2d(up[-1], channels, kernel, 1, half) if kernel == 3 else nn.Identity()
        self.middle = nn.Conv2d(down[-1], down[-1], kernel, 1, half) if kernel == 5 else nn.Identity()
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Images) -> Images:
        sizes: list[torch.Size] = []
        for layer in self.down:
            sizes.append(x.shape[2:])
            x = torch.relu(layer(x))
        if not isinstance(self.middle, nn.Identity):
            x = torch.relu(self.middle(x))
        for layer in self.up:
            x = layer(x, output_size=sizes.pop())
            x = torch.relu(x) if sizes or not isinstance(self.last, nn.Identity) else x
        output: Tensor = self.last(x)
        return output


def autoencoder(shape: Shape, scale: int, kernel: Literal[3, 5] = 5) -> nn.Module:
    """The network with kernels of `kernel` pixels a side."""
    return enlarged(_Autoencoder(shape[0], kernel), scale)
