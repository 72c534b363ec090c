"""Frequency trigger: raised DCT coefficients of the colour channels in every block (FTrojan, CTRL).

Paper: Wang, Yao, Xu, An, Tong, Wang, "An Invisible Black-Box Backdoor Attack through Frequency Domain", ECCV 2022,
arXiv:2107.11298.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sidedoor.errors import ConfigError
from sidedoor.triggers.base import Trigger
from sidedoor.types import Images, Index

FROM_CHROMA = ((0.0, 1.140), (-0.395, -0.581), (2.032, 0.0))
"""Red, green and blue of one unit of U and of V (BT.601)."""


class Frequency(Trigger):
    """Raise coefficients of the orthonormal cosine transform of U and V; grey images have their brightness raised.

    Conversion and transform are linear, so this adds one pattern to each block.

    Args:
        magnitude: added to each coefficient, in units of the pixel range.
        window: side of a block in pixels; the coefficient in its middle and its highest one are raised.

    Raises:
        ConfigError: blocks below 2×2.
    """

    block: Tensor

    def __init__(self, magnitude: float = 20 / 255, window: int = 32):
        super().__init__()
        if window < 2:
            raise ConfigError(f"window = {window} given; expected at least 2 pixels")
        place = torch.arange(window, dtype=torch.float64) + 0.5
        frequency = torch.tensor([window // 2 - 1, window - 1])
        rows = torch.cos(math.pi * place * frequency[:, None] / window)
        rows = rows / rows.norm(dim=1, keepdim=True)
        self.register_buffer("block", (magnitude * rows.T @ rows).float())

    def forward(self, x: Images, index: Index) -> Images:
        channels, height, width = x.shape[1:]
        window = len(self.block)
        tiled = self.block.repeat(-(-height // window), -(-width // window))[:height, :width]
        weights = x.new_tensor(FROM_CHROMA).sum(1) if channels == 3 else x.new_ones(channels)
        return x + weights[:, None, None] * tiled
