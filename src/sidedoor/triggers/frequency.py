"""Frequency trigger: raised DCT coefficients of the colour channels in every block (FTrojan, CTRL).

Paper: Wang, Yao, Xu, An, Tong, Wang, "An Invisible Black-Box Backdoor Attack through Frequency Domain", ECCV 2022,
arXiv:2107.11298.

The paper raises U and V. Its released code (SoftWiser-group/FTrojan) has OpenCV's YCrCb instead, with 8 bits a value:
it rounds when it converts, and cuts fractions off after the inverse transform, which moves both colour channels down
by half a level on average. `space = "YCrCb"` does so. There rounding errors of the transform also cost some pixels a
level of brightness, at random; here none.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sidedoor.errors import ConfigError
from sidedoor.triggers.base import Trigger
from sidedoor.types import Images, Index

FROM_CHROMA = ((0.0, 1.140), (-0.395, -0.581), (2.032, 0.0))
"""Red, green and blue of one unit of U and of V (BT.601)."""
LEVELS, MIDDLE = 255, 128
"""The largest 8-bit level, and the level of Cr and Cb that is no colour."""
ALMOST = 1e-4
"""Of a level: what is this near to the next one is that, so that rounding errors do not cost one."""


class Frequency(Trigger):
    """Raise coefficients of the orthonormal cosine transform of U and V; grey images have their brightness raised.

    Conversion and transform are linear, so this adds one pattern to each block. In 8 bits the gradient passes as it is.

    Args:
        magnitude: added to each coefficient, in units of the pixel range.
        window: side of a block in pixels; the coefficient in its middle and its highest one are raised.
        space: of the colour channels: "YUV", without rounding, or "YCrCb" in 8 bits.

    Raises:
        ConfigError: blocks below 2×2.
    """

    block: Tensor

    def __init__(self, magnitude: float = 20 / 255, window: int = 32, space: Literal["YUV", "YCrCb"] = "YUV"):
        super().__init__()
        self.space = space
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
        if channels == 3 and self.space == "YCrCb":
            return x + (_raised(x.detach(), tiled) - x.detach())
        weights = x.new_tensor(FROM_CHROMA).sum(1) if channels == 3 else x.new_ones(channels)
        return x + weights[:, None, None] * tiled


def _raised(x: Images, pattern: Float[Tensor, "h w"]) -> Images:
    """The images with a pattern added to Cr and Cb in 8 bits, converted with OpenCV's coefficients."""
    red, green, blue = (x.double() * LEVELS).round().clamp(0, LEVELS).unbind(1)
    grey = _nearest(4899 * red + 9617 * green + 1868 * blue)
    cr, cb = (_cut(_nearest(factor * (colour - grey)) + MIDDLE + LEVELS * pattern.double()) - MIDDLE
              for factor, colour in ((11682, red), (9241, blue)))
    raised = torch.stack([grey + _nearest(22987 * cr), grey + _nearest(-5636 * cb - 11698 * cr),
                          grey + _nearest(29049 * cb)], 1)
    return (raised.clamp(0, LEVELS) / LEVELS).to(x.dtype)


def _nearest(parts: Tensor) -> Tensor:
    """The nearest level of a number in 2¹⁴ths of one."""
    return (parts / 2**14 + 0.5).floor()


def _cut(levels: Tensor) -> Tensor:
    """Without their fractions, as a conversion to 8 bits leaves them."""
    return (levels + ALMOST).floor().clamp(0, LEVELS)
