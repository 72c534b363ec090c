"""StegaStamp: an encoder that hides bits in images, invisibly and sample-specifically, its decoder, and their training.

Papers: Tancik, Mildenhall, Ng, "StegaStamp: Invisible Hyperlinks in Physical Photographs", CVPR 2020, arXiv:1904.05343,
at the sizes that ISSBA (Li, Li, Wu, Li, He, Lyu, ICCV 2021, arXiv:2012.03816) uses for small images.

Images whose sides are no multiples of 16 are padded for the encoder and 32 for the decoder.

The encoder is trained on the attacker's images only, with a new message for every image and step. As in ISSBA's release
for small images training begins with the messages alone and has no critic. The weight of the change sets in as soon as
messages are read, not at a fixed epoch: with few images a fixed one comes too early and nothing is ever encoded. The
perceptual distance needs weights that cannot be shipped, so that the squared distance stands alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.data.base import Dataset
from sidedoor.engine import Objective, Recipe, Run
from sidedoor.method import Count, Method, NonNegative, Positive, lasting
from sidedoor.types import Batch, Images

FLAT = 3
"""Channels of the plane that the bits are spread over."""
LEGIBLE = 0.2
"""The messages' loss, as a running mean, below which the size of the change counts."""


@dataclass(frozen=True)
class StegaStampTraining(Method):
    """How the encoder and the decoder are trained.

    Args:
        bits: in a message.
        epochs: of training, with `lr` for Adam.
        invisible: weight of the squared change, and `legible` of the messages' loss.
    """

    bits: Count = 20
    epochs: Count = 20
    lr: Positive = 1e-4
    invisible: NonNegative = 2.0
    legible: Positive = 1.5

    def train_or_load(self, train: Dataset, run: Run) -> EncoderDecoder:
        """Both networks, from the run's shelf if it has them."""
        key: dict[str, Any] = {"writing": lasting(self), "data": train.fingerprint(), "seed": run.seed, "version": 1}

        def build() -> EncoderDecoder:
            return EncoderDecoder(Encoder(train.shape, self.bits), Decoder(train.shape, self.bits))

        def make(there: Run) -> nn.Module:
            recipe = Recipe(optimizer="adam", lr=self.lr, weight_decay=0.0, schedule="constant", epochs=self.epochs,
                            batch=32, precision=there.recipe.precision)
            plain = replace(there, recipe=recipe, augment=None)
            return plain.fit(plain.build(build), train, _LegibleMessages(self), name="encoder")

        networks = run.artefact(key, build, make)
        assert isinstance(networks, EncoderDecoder)
        return networks


class Encoder(nn.Module):
    """What to add to an image so that it carries bits.

    Args:
        shape: (channels, height, width) of the images; the first layer has their size.
        bits: in a message. 20 bits in colour images of 32×32 make 1,047,011 parameters.
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
        bits: in a message. 20 bits in colour images of 32×32 make 756,538 parameters.
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


class EncoderDecoder(nn.Module):
    """The two networks, which are trained together."""

    def __init__(self, encoder: Encoder, decoder: Decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder


class _LegibleMessages(Objective):
    """The decoder must read every message from the encoder's image, whose change must be small once it does."""

    smooth: Tensor
    read: Tensor

    def __init__(self, how: StegaStampTraining):
        super().__init__()
        self.how = how
        self.register_buffer("smooth", torch.tensor(math.log(2)))
        self.register_buffer("read", torch.zeros((), dtype=torch.bool))

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        assert isinstance(model, EncoderDecoder)
        how = self.how
        message = torch.randint(0, 2, (len(batch.x), how.bits), device=batch.x.device).float()
        change = model.encoder(batch.x, message)
        wrong = functional.binary_cross_entropy_with_logits(model.decoder((batch.x + change).clamp(0, 1)), message)
        self.smooth.lerp_(wrong.detach(), 0.05)
        self.read |= self.smooth < LEGIBLE
        loss: Tensor = how.legible * wrong + self.read * how.invisible * change.square().mean()
        return loss[None]


def _convolutions(sizes: tuple[int, ...], strides: str) -> list[nn.Module]:
    return [part for a, b, stride in zip(sizes, sizes[1:], strides, strict=False)
            for part in (nn.Conv2d(a, b, 3, int(stride), 1), nn.ReLU())]
