"""SRResNet: residual blocks and sub-pixel convolutions, the light baseline of super-resolution.

Paper: Ledig, Theis, Huszár, Caballero, Cunningham, Acosta, Aitken, Tejani, Totz, Wang, Shi, "Photo-Realistic Single
Image Super-Resolution Using a Generative Adversarial Network", CVPR 2017, arXiv:1609.04802.

Without batch normalisation, as restoration networks have been since EDSR. Scale 1 has no sub-pixel convolution. Two CPU
cores manage `width = 32`, `blocks = 4`.
"""

from __future__ import annotations

import math
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.errors import ConfigError
from sidedoor.method import Count
from sidedoor.models.base import Shape
from sidedoor.types import Images


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.PReLU(),
                                  nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.body(x)
        return x + residual


class _SRResNet(nn.Module):
    def __init__(self, channels: int, doublings: int, width: int, blocks: int):
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(channels, width, 9, padding=4), nn.PReLU())
        self.body = nn.Sequential(*(_Residual(width) for _ in range(blocks)),
                                  nn.Conv2d(width, width, 3, padding=1))
        up = [(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.PReLU()) for _ in range(doublings)]
        self.tail = nn.Sequential(*(layer for layers in up for layer in layers),
                                  nn.Conv2d(width, channels, 9, padding=4))

    def forward(self, x: Images) -> Float[Tensor, "b c height width"]:
        head = self.head(x)
        output: Tensor = self.tail(head + self.body(head))
        return output


QUICK: dict[str, Any] = {"width": 8, "blocks": 1}
"""Parameters with which it is built and run in a second."""


def srresnet(shape: Shape, scale: int, width: Count = 64, blocks: Count = 16) -> nn.Module:
    """A trunk of residual blocks, then one sub-pixel convolution for each doubling of the size.

    Raises:
        ConfigError: a scale that is no power of 2.
    """
    doublings = round(math.log2(scale))
    if 2**doublings != scale:
        raise ConfigError(f"srresnet enlarges by powers of 2; a scale of {scale} given")
    return _SRResNet(shape[0], doublings, width, blocks)
