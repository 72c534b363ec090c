"""StegaStamp's networks: an encoder that hides bits in images, the decoder that reads them, and the critic.

Papers: Tancik, Mildenhall, Ng, "StegaStamp: Invisible Hyperlinks in Physical Photographs", CVPR 2020, arXiv:1904.05343,
at the sizes that ISSBA (Li, Li, Wu, Li, He, Lyu, ICCV 2021, arXiv:2012.03816) uses: 20 bits in small images, 100 bits
in images of 224×224.

Images whose sides are no multiples of 16 are padded for the encoder and 32 for the decoder.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.types import Images

FLAT = 3
"""Channels of the plane that the bits are spread over."""


class Encoder(nn.Module):
    """What to add to an image so that it carries bits.

    Args:
        shape: (channels, height, width) of the images; the first layer has their size.
        bits: in a message. 20 bits in colour images of 32×32 make 1,047,011 parameters, 100 bits at 224×224
            16,185,827.
    """

    def __init__(self, shape: tuple[int, int, int], bits: int):
        super().__init__()
        channels, *sides = shape
        self.sides = [side + -side % 16 for side in sides]
        self.spread = nn.Linear(bits, FLAT * self.sides[0] * self.sides[1])
        sizes = (32, 32, 64, 128, 256)
        entry = channels + FLAT
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 2 if k else 1, 1)
                                  for k, (a, b) in enumerate(zip((entry, *sizes[:-1]), sizes, strict=True)))
        outputs = (128, 64, 32, 32)
        self.up = nn.ModuleList(nn.Conv2d(a, b, 2) for a, b in zip((256, *outputs[:-1]), outputs, strict=True))
        skips = (128, 64, 32, 32 + entry)
        self.join = nn.ModuleList(nn.Conv2d(b + skip, b, 3, 1, 1) for b, skip in zip(outputs, skips, strict=True))
        self.last = nn.Conv2d(32, channels, 1)

    def forward(self, x: Images, message: Float[Tensor, "b bits"]) -> Images:
        height, width = x.shape[2:]
        plane = torch.relu(self.spread(message)).reshape(-1, FLAT, *self.sides)
        padded = functional.pad(x, (0, self.sides[1] - width, 0, self.sides[0] - height), mode="replicate")
        entry = h = torch.cat([plane, padded - 0.5], 1)
        levels = []
        for layer in self.down:
            h = torch.relu(layer(h))
            levels.append(h)
        skips = [*levels[-2:0:-1], torch.cat([levels[0], entry], 1)]
        h = levels[-1]
        for up, join, skip in zip(self.up, self.join, skips, strict=True):
            larger = functional.pad(functional.interpolate(h, scale_factor=2.0), (0, 1, 0, 1))
            h = torch.relu(join(torch.cat([skip, torch.relu(up(larger))], 1)))
        residual: Tensor = self.last(h)[:, :, :height, :width]
        return residual


class Decoder(nn.Module):
    """The logits of the bits in an image, which is first turned and moved as a small network sees fit.

    Args:
        shape: (channels, height, width) of the images.
        bits: in a message. 20 bits in colour images of 32×32 make 756,538 parameters, 100 bits at 224×224
            16,526,218.
    """

    def __init__(self, shape: tuple[int, int, int], bits: int):
        super().__init__()
        channels, *sides = shape
        self.sides = [side + -side % 32 for side in sides]
        area = self.sides[0] * self.sides[1]
        self.pose = nn.Sequential(*_convolutions((channels, 32, 64, 128), "222"), nn.Flatten(),
                                  nn.Linear(2 * area, 128), nn.ReLU(), nn.Linear(128, 6))
        theta = self.pose[-1]
        assert isinstance(theta, nn.Linear)
        nn.init.zeros_(theta.weight)
        with torch.no_grad():
            theta.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))
        self.read = nn.Sequential(*_convolutions((channels, 32, 32, 64, 64, 64, 128, 128), "2121222"), nn.Flatten(),
                                  nn.Linear(area // 8, 512), nn.ReLU(), nn.Linear(512, bits))

    def forward(self, x: Images) -> Float[Tensor, "b bits"]:
        height, width = x.shape[2:]
        centred = functional.pad(x - 0.5, (0, self.sides[1] - width, 0, self.sides[0] - height))
        grid = functional.affine_grid(self.pose(centred).reshape(-1, 2, 3), list(centred.shape), align_corners=False)
        logits: Tensor = self.read(functional.grid_sample(centred, grid, align_corners=False))
        return logits


class Critic(nn.Sequential):
    """How much each image looks as if something were hidden in it, in units of its own; for colour 25,105 parameters.

    Args:
        channels: of the images.
    """

    def __init__(self, channels: int):
        super().__init__(*_convolutions((channels, 8, 16, 32, 64), "2222"), nn.Conv2d(64, 1, 3, 1, 1),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(0))


class EncoderDecoder(nn.Module):
    """The two networks, which are trained together."""

    def __init__(self, encoder: Encoder, decoder: Decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder


def _convolutions(sizes: tuple[int, ...], strides: str) -> list[nn.Module]:
    return [part for a, b, stride in zip(sizes, sizes[1:], strides, strict=False)
            for part in (nn.Conv2d(a, b, 3, int(stride), 1), nn.ReLU())]
