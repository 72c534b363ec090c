"""DRUNet: the denoiser of DPIR, a U-Net of residual blocks with a noise-level map as an extra input channel.

Paper: Zhang, Li, Zuo, Zhang, Van Gool, Timofte, "Plug-and-Play Image Restoration with Deep Denoiser Prior", IEEE TPAMI
2021, arXiv:2008.13751.

The published denoiser has no biases: 32,640,960 parameters for colour images, named here as in the published weights.
The count of 32,653,635 that circulates is that of the same network with its 12,675 biases (`bias = true`). Two CPU
cores manage `widths = [16, 32, 64, 64]`, `blocks = 1`, 321,520 parameters, which see the whole of a 32×32 patch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.method import Count, NonNegative, Whole
from sidedoor.models.base import Shape, enlarged
from sidedoor.types import Images


class _ResBlock(nn.Module):
    def __init__(self, width: int, bias: bool):
        super().__init__()
        self.res = nn.Sequential(_conv(width, width, bias), nn.ReLU(), _conv(width, width, bias))

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.res(x)
        return x + residual


class _DRUNet(nn.Module):
    def __init__(self, channels: int, widths: tuple[int, int, int, int], depths: tuple[int, int], sigma: float,
                 bias: bool):
        super().__init__()
        one, two, three, four = widths
        blocks, deep = depths
        self.sigma = sigma
        self.m_head = _conv(channels + 1, one, bias)
        self.m_down1 = nn.Sequential(*_blocks(one, blocks, bias), nn.Conv2d(one, two, 2, 2, bias=bias))
        self.m_down2 = nn.Sequential(*_blocks(two, blocks, bias), nn.Conv2d(two, three, 2, 2, bias=bias))
        self.m_down3 = nn.Sequential(*_blocks(three, blocks, bias), nn.Conv2d(three, four, 2, 2, bias=bias))
        self.m_body = nn.Sequential(*_blocks(four, deep, bias))
        self.m_up3 = nn.Sequential(nn.ConvTranspose2d(four, three, 2, 2, bias=bias), *_blocks(three, blocks, bias))
        self.m_up2 = nn.Sequential(nn.ConvTranspose2d(three, two, 2, 2, bias=bias), *_blocks(two, blocks, bias))
        self.m_up1 = nn.Sequential(nn.ConvTranspose2d(two, one, 2, 2, bias=bias), *_blocks(one, blocks, bias))
        self.m_tail = _conv(one, channels, bias)

    def forward(self, x: Images) -> Images:
        height, width = x.shape[2:]
        x = functional.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate")
        x = x.contiguous(memory_format=torch.channels_last)  # a fifth faster on a CPU
        level = torch.full_like(x[:, :1], self.sigma / 255)
        one = self.m_head(torch.cat([x, level], 1))
        two = self.m_down1(one)
        three = self.m_down2(two)
        four = self.m_down3(three)
        deep = self.m_up3(self.m_body(four) + four)
        deep = self.m_up1(self.m_up2(deep + three) + two)
        output: Tensor = self.m_tail(deep + one)
        return output[:, :, :height, :width]


QUICK: dict[str, Any] = {"widths": (8, 8, 8, 8), "blocks": 1}
"""Parameters with which it is built and run in a second."""


def drunet(shape: Shape, scale: int, widths: tuple[Count, Count, Count, Count] = (64, 128, 256, 512), blocks: Count = 4,
           sigma: NonNegative = 25.0, bias: bool = False, deep: Whole = 0) -> nn.Module:
    """Three halvings of the size; for a scale above 1 behind bicubic enlargement.

    Args:
        widths: channels from the full size to an eighth of it.
        blocks: residual blocks at each size.
        sigma: the noise level in the extra input channel, in 8-bit levels.
        bias: whether convolutions have one; without, the output scales with the input and the level.
        deep: residual blocks at an eighth of the size, where they are cheap and see far; 0: as many as elsewhere.
    """
    body = _DRUNet(shape[0], widths, (blocks, deep or blocks), sigma, bias).to(memory_format=torch.channels_last)
    return enlarged(body, scale)


def _conv(inputs: int, outputs: int, bias: bool) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


def _blocks(width: int, count: int, bias: bool) -> list[nn.Module]:
    return [_ResBlock(width, bias) for _ in range(count)]
