"""MIRNet: parallel streams at full, half and quarter resolution, fused by selective kernels.

Paper: Zamir, Arora, Khan, Hayat, Khan, Yang, Shao, "Learning Enriched Features for Real Image Restoration and
Enhancement", ECCV 2020, arXiv:2003.06792.

The full size has 31,787,419 parameters for colour images. As in the authors' network the two attention units of a
stream share their weights, and all units one slope of their PReLU. Two CPU cores manage `width = 8`, `groups = 1`,
`blocks = 1`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.method import Count
from sidedoor.models.base import Shape, enlarged
from sidedoor.types import Images

_STREAMS = 3
_UNITS = 2
"""Attention units of a stream, one after another, with an exchange between them."""


class _Attention(nn.Module):
    """Two convolutions, weighed by place and by channel."""

    def __init__(self, width: int, act: nn.Module):
        super().__init__()
        self.body = nn.Sequential(_conv(width, width), act, _conv(width, width))
        self.place = nn.Conv2d(2, 1, 5, padding=2, bias=False)
        self.channel = nn.Sequential(nn.AdaptiveAvgPool2d(1), _point(width, width // 8), nn.ReLU(),
                                     _point(width // 8, width), nn.Sigmoid())
        self.join = _point(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        body = self.body(x)
        summary = torch.cat([body.amax(1, keepdim=True), body.mean(1, keepdim=True)], 1)
        weighed = torch.cat([body * torch.sigmoid(self.place(summary)), body * self.channel(body)], 1)
        mixed: Tensor = self.join(weighed)
        return x + mixed


class _Fusion(nn.Module):
    """Sum streams by weights that their common mean decides, channel by channel."""

    def __init__(self, width: int):
        super().__init__()
        narrow = max(width // 8, 4)
        self.squeeze = nn.Sequential(_point(width, narrow), nn.PReLU())
        self.weigh = nn.ModuleList(_point(narrow, width) for _ in range(_STREAMS))

    def forward(self, streams: list[Tensor]) -> Tensor:
        stacked = torch.stack(streams, 1)
        common = self.squeeze(stacked.sum(1).mean((2, 3), keepdim=True))
        weights = torch.softmax(torch.stack([weigh(common) for weigh in self.weigh], 1), 1)
        return (stacked * weights).sum(1)


class _Down(nn.Module):
    """Half the size, twice the channels."""

    def __init__(self, width: int):
        super().__init__()
        self.top = nn.Sequential(_point(width, width), nn.PReLU(), _conv(width, width), nn.PReLU(), _Blur(),
                                 _point(width, 2 * width))
        self.bottom = nn.Sequential(_Blur(), _point(width, 2 * width))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.top(x) + self.bottom(x)
        return output


class _Blur(nn.Module):
    """Every second pixel after a binomial filter, so that halving does not alias."""

    def forward(self, x: Tensor) -> Tensor:
        row = x.new_tensor([1.0, 2.0, 1.0]) / 4
        kernel = (row[:, None] * row).expand(x.shape[1], 1, 3, 3)
        padded = functional.pad(x, (1, 1, 1, 1), mode="reflect")
        return functional.conv2d(padded, kernel, stride=2, groups=x.shape[1])


class _Up(nn.Module):
    """Twice the size, half the channels."""

    def __init__(self, width: int):
        super().__init__()
        self.top = nn.Sequential(_point(width, width), nn.PReLU(),
                                 nn.ConvTranspose2d(width, width, 3, 2, padding=1, output_padding=1, bias=False),
                                 nn.PReLU(), _point(width, width // 2))
        self.bottom = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                                    _point(width, width // 2))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.top(x) + self.bottom(x)
        return output


class _Block(nn.Module):
    """A multi-scale residual block."""

    def __init__(self, width: int, act: nn.Module):
        super().__init__()
        widths = [width * 2**k for k in range(_STREAMS)]
        self.units = nn.ModuleList(_Attention(w, act) for w in widths)
        self.fuse = nn.ModuleList(_Fusion(w) for w in widths)
        # Each pair of streams has its own resampling path; at the end each stream has one more to the full size.
        self.ways = nn.ModuleDict({f"{a}{b}": _way(width, a, b) for a in range(_STREAMS) for b in range(_STREAMS)
                                   if a != b})
        self.last = nn.ModuleList(_way(width, k, 0) for k in range(1, _STREAMS))
        self.out = _conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        streams = [self.units[0](x)]
        for k in range(1, _STREAMS):
            streams.append(self.units[k](self.ways[f"{k - 1}{k}"](streams[-1])))
        for _ in range(_UNITS - 1):
            mixed = [self.fuse[k]([self._moved(streams[j], j, k) for j in range(_STREAMS)]) for k in range(_STREAMS)]
            streams = [unit(stream) for unit, stream in zip(self.units, mixed, strict=True)]
        full = [streams[0], *(way(stream) for way, stream in zip(self.last, streams[1:], strict=True))]
        residual: Tensor = self.out(self.fuse[0](full))
        return x + residual

    def _moved(self, stream: Tensor, source: int, to: int) -> Tensor:
        return stream if source == to else self.ways[f"{source}{to}"](stream)


class _Group(nn.Module):
    def __init__(self, width: int, blocks: int, act: nn.Module):
        super().__init__()
        self.body = nn.Sequential(*(_Block(width, act) for _ in range(blocks)), _conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.body(x)
        return x + residual


class _MIRNet(nn.Module):
    def __init__(self, channels: int, width: int, groups: int, blocks: int):
        super().__init__()
        act = nn.PReLU()
        self.body = nn.Sequential(_conv(channels, width), *(_Group(width, blocks, act) for _ in range(groups)),
                                  _conv(width, channels))

    def forward(self, x: Images) -> Images:
        height, width = x.shape[2:]
        x = functional.pad(x, (0, -width % 4, 0, -height % 4), mode="replicate")
        output: Tensor = x + self.body(x)
        return output[:, :, :height, :width]


QUICK: dict[str, Any] = {"width": 8, "groups": 1, "blocks": 1}
"""Parameters with which it is built and run in a second."""


def mirnet(shape: Shape, scale: int, width: Count = 64, groups: Count = 3, blocks: Count = 2) -> nn.Module:
    """Groups of multi-scale residual blocks; for a scale above 1 behind bicubic enlargement.

    Args:
        width: channels at full size, a multiple of 8.
        groups: recursive residual groups.
        blocks: of each group.
    """
    return enlarged(_MIRNet(shape[0], width, groups, blocks), scale)


def _way(width: int, source: int, to: int) -> nn.Module:
    """The path from one stream to another, a halving or doubling at a time."""
    if source < to:
        return nn.Sequential(*(_Down(width * 2**k) for k in range(source, to)))
    return nn.Sequential(*(_Up(width * 2**k) for k in range(source, to, -1)))


def _conv(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


def _point(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 1, bias=False)
