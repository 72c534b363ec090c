"""MPRNet: multi-stage restoration by two U-Nets on quarters and halves and a stage at full resolution.

Paper: Zamir, Arora, Khan, Hayat, Khan, Yang, Shao, "Multi-Stage Progressive Image Restoration", CVPR 2021,
arXiv:2102.02808.

The full size is that of the paper's denoiser, 15,741,025 parameters for colour images. It returns the images of all
stages, the last one's first. Two CPU cores manage `width = 16`, `step = 8`, `extra = 8`, `cabs = 1`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.method import Count
from sidedoor.models.base import Shape, enlarged
from sidedoor.types import Images

Maps = list[Tensor]
"""Features at full, half and quarter size."""
_REDUCTION = 4


class _Attention(nn.Module):
    """Two convolutions whose channels are then weighed by what their means say: a channel attention block."""

    def __init__(self, width: int, act: nn.Module):
        super().__init__()
        self.body = nn.Sequential(_conv(width, width), act, _conv(width, width))
        self.weigh = nn.Sequential(nn.AdaptiveAvgPool2d(1), _point(width, width // _REDUCTION), nn.ReLU(),
                                   _point(width // _REDUCTION, width), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        residual = self.body(x)
        weighed: Tensor = residual * self.weigh(residual)
        return x + weighed


class _Encoder(nn.Module):
    """Three sizes; from the second stage on it also gets the previous stage's features at each of them."""

    def __init__(self, widths: tuple[int, int, int], act: nn.Module, given: bool):
        super().__init__()
        self.levels = nn.ModuleList(_pair(width, act) for width in widths)
        self.down = nn.ModuleList(_Resize(0.5, widths[k], widths[k + 1]) for k in range(2))
        self.from_encoder = nn.ModuleList(_point(width, width) for width in widths if given)
        self.from_decoder = nn.ModuleList(_point(width, width) for width in widths if given)

    def forward(self, x: Tensor, encoded: Maps | None = None, decoded: Maps | None = None) -> Maps:
        maps: Maps = []
        for k, level in enumerate(self.levels):
            x = level(self.down[k - 1](x) if k else x)
            if encoded is not None and decoded is not None:
                x = x + self.from_encoder[k](encoded[k]) + self.from_decoder[k](decoded[k])
            maps.append(x)
        return maps


class _Decoder(nn.Module):
    def __init__(self, widths: tuple[int, int, int], act: nn.Module):
        super().__init__()
        self.levels = nn.ModuleList(_pair(width, act) for width in widths)
        self.skip = nn.ModuleList(_Attention(width, act) for width in widths[:2])
        self.up = nn.ModuleList(_Resize(2.0, widths[k + 1], widths[k]) for k in range(2))

    def forward(self, maps: Maps) -> Maps:
        three = self.levels[2](maps[2])
        two = self.levels[1](self.up[1](three) + self.skip[1](maps[1]))
        one = self.levels[0](self.up[0](two) + self.skip[0](maps[0]))
        return [one, two, three]


class _Resize(nn.Module):
    def __init__(self, factor: float, inputs: int, outputs: int):
        super().__init__()
        self.factor, self.point = factor, _point(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        sized = functional.interpolate(x, scale_factor=self.factor, mode="bilinear", align_corners=False)
        output: Tensor = self.point(sized)
        return output


class _Supervised(nn.Module):
    """Makes a stage's image, and lets it decide which features the next stage sees."""

    def __init__(self, width: int, channels: int):
        super().__init__()
        self.keep, self.image, self.back = _point(width, width), _point(width, channels), _point(channels, width)

    def forward(self, features: Tensor, x: Images) -> tuple[Tensor, Images]:
        image = self.image(features) + x
        return features + self.keep(features) * torch.sigmoid(self.back(image)), image


class _Original(nn.Module):
    """The last stage: residual groups at full size, fed by the second stage's features of every size."""

    def __init__(self, widths: tuple[int, int, int], wide: int, cabs: int, act: nn.Module):
        super().__init__()
        self.groups = nn.ModuleList(nn.Sequential(*(_Attention(wide, act) for _ in range(cabs)), _conv(wide, wide))
                                    for _ in range(3))
        self.encoded = nn.ModuleList(self._to_full(widths, wide, k) for k in range(3))
        self.decoded = nn.ModuleList(self._to_full(widths, wide, k) for k in range(3))

    @staticmethod
    def _to_full(widths: tuple[int, int, int], wide: int, level: int) -> nn.Module:
        ups = [_Resize(2.0, widths[k], widths[k - 1]) for k in range(level, 0, -1)]
        return nn.Sequential(*ups, _point(widths[0], wide))

    def forward(self, x: Tensor, encoded: Maps, decoded: Maps) -> Tensor:
        for k, group in enumerate(self.groups):
            x = x + group(x) + self.encoded[k](encoded[k]) + self.decoded[k](decoded[k])
        return x


class _MPRNet(nn.Module):
    def __init__(self, channels: int, width: int, step: int, extra: int, cabs: int):
        super().__init__()
        widths = (width, width + step, width + 2 * step)
        act = nn.PReLU()  # one slope for the whole network, as the paper's code has it
        self.shallow = nn.ModuleList(nn.Sequential(_conv(channels, width), _Attention(width, act)) for _ in range(3))
        self.encoder1, self.encoder2 = _Encoder(widths, act, given=False), _Encoder(widths, act, given=True)
        self.decoder1, self.decoder2 = _Decoder(widths, act), _Decoder(widths, act)
        self.stage3 = _Original(widths, width + extra, cabs, act)
        self.supervise1, self.supervise2 = _Supervised(width, channels), _Supervised(width, channels)
        self.join2, self.join3 = _conv(2 * width, width), _conv(2 * width, width + extra)
        self.tail = _conv(width + extra, channels)

    def forward(self, x: Images) -> tuple[Images, Images, Images]:
        height, width = x.shape[2:]
        x = functional.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate")
        halves = _cut(x, 2)
        quarters = self.encoder1(self.shallow[0](_cut(halves, 3)))
        encoded = [_join(maps, 3) for maps in quarters]
        decoded = self.decoder1(encoded)
        seen, image1 = self.supervise1(decoded[0], halves)
        features = self.join2(torch.cat([self.shallow[1](halves), seen], 1))
        whole = [_join(maps, 2) for maps in self.encoder2(features, encoded, decoded)]
        decoded = self.decoder2(whole)
        seen, image2 = self.supervise2(decoded[0], x)
        features = self.join3(torch.cat([self.shallow[2](x), seen], 1))
        image3 = self.tail(self.stage3(features, whole, decoded)) + x
        one, two, three = (image[:, :, :height, :width] for image in (_join(image1, 2), image2, image3))
        return three, two, one


QUICK: dict[str, Any] = {"width": 8, "step": 4, "extra": 4, "cabs": 1}
"""Parameters with which it is built and run in a second."""


def mprnet(shape: Shape, scale: int, width: Count = 80, step: Count = 48, extra: Count = 32,
           cabs: Count = 8) -> nn.Module:
    """Three stages; for a scale above 1 behind bicubic enlargement.

    Args:
        width: channels at full size.
        step: channels more at each halving.
        extra: channels more in the last stage.
        cabs: attention blocks of each group of the last stage.
    """
    return enlarged(_MPRNet(shape[0], width, step, extra, cabs), scale)


def _conv(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


def _point(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 1, bias=False)


def _pair(width: int, act: nn.Module) -> nn.Module:
    return nn.Sequential(_Attention(width, act), _Attention(width, act))


def _cut(x: Tensor, dim: int) -> Tensor:
    """Both halves along a dimension, one after the other in the batch."""
    return torch.cat(x.chunk(2, dim))


def _join(x: Tensor, dim: int) -> Tensor:
    return torch.cat(x.chunk(2), dim)
