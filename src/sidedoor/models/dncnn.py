"""DnCNN: a residual denoiser of plain convolutions, which predict the noise.

Paper: Zhang, Zuo, Chen, Meng, Zhang, "Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image Denoising",
IEEE TIP 2017, arXiv:1608.03981.

Published weights have their batch normalisation merged into the convolutions, and so has our default; `normalise` adds
it. With d layers an output pixel depends on 2d + 1 pixels a side, 35 for 17 layers: a trigger further away than that
can do nothing. Two CPU cores manage `layers = 8`, `width = 32`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sidedoor.method import Count
from sidedoor.models.base import Shape, enlarged
from sidedoor.types import Images


class _DnCNN(nn.Module):
    def __init__(self, layers: list[nn.Module]):
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x: Images) -> Images:
        noise: Tensor = self.model(x)
        return x - noise


QUICK: dict[str, Any] = {"layers": 4, "width": 8}
"""Parameters with which it is built and run in a second."""


def dncnn(shape: Shape, scale: int, layers: Count = 17, width: Count = 64, normalise: bool = False) -> nn.Module:
    """A stack of 3×3 convolutions.

    Args:
        layers: convolutions, at least 2; 17 in the paper for a known noise level.
        normalise: whether the convolutions between the first and the last have batch normalisation.
    """
    body: list[nn.Module] = [nn.Conv2d(shape[0], width, 3, padding=1), nn.ReLU()]
    for _ in range(max(layers, 2) - 2):
        body += [nn.Conv2d(width, width, 3, padding=1, bias=not normalise),
                 *([nn.BatchNorm2d(width)] if normalise else []), nn.ReLU()]
    return enlarged(_DnCNN([*body, nn.Conv2d(width, shape[0], 3, padding=1)]), scale)
