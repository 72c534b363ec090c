"""Training networks that write messages into images and read them again.

Paper: Li, Li, Wu, Li, He, Lyu, "Invisible Backdoor Attack with Sample-Specific Triggers", ICCV 2021, arXiv:2012.03816,
with the networks of StegaStamp.

The encoder is trained on the attacker's images only, with a new message for every image and step. As in the release for
small images training begins with the messages alone and has no critic. The change is held small from when messages are
read, not from a fixed epoch: with few images a fixed one comes too early and nothing is ever written. The perceptual
distance needs weights that cannot be shipped, so that the squared distance stands alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.attacks.poisoning._stegastamp import Decoder, Encoder
from sidedoor.data.base import Dataset
from sidedoor.engine import Objective, Recipe, Run
from sidedoor.method import Count, Method, NonNegative, Positive, lasting
from sidedoor.types import Batch

LEGIBLE = 0.2
"""The messages' loss, as a running mean, from which on the change shall be small."""


@dataclass(frozen=True)
class Writing(Method):
    """How the networks are trained.

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

    def learned(self, train: Dataset, run: Run) -> Writers:
        """Both networks, kept for all who ask the same."""
        key: dict[str, Any] = {"writing": lasting(self), "data": train.fingerprint(), "seed": run.seed, "version": 1}

        def build() -> Writers:
            return Writers(Encoder(train.shape, self.bits), Decoder(train.shape, self.bits))

        def make(there: Run) -> nn.Module:
            recipe = Recipe(optimizer="adam", lr=self.lr, weight_decay=0.0, schedule="constant", epochs=self.epochs,
                            batch=32, precision=there.recipe.precision)
            plain = replace(there, recipe=recipe, augment=None)
            return plain.fit(plain.build(build), train, _Write(self), name="encoder")

        pair = run.artefact(key, build, make)
        assert isinstance(pair, Writers)
        return pair


class Writers(nn.Module):
    """The encoder and the decoder, which are trained together."""

    def __init__(self, encoder: Encoder, decoder: Decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder


class _Write(Objective):
    """The messages must be read from what was written, which shall be little as soon as they are."""

    smooth: Tensor
    read: Tensor

    def __init__(self, how: Writing):
        super().__init__()
        self.how = how
        self.register_buffer("smooth", torch.tensor(math.log(2)))
        self.register_buffer("read", torch.zeros((), dtype=torch.bool))

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, Writers)
        message = torch.randint(0, 2, (len(batch.x), self.how.bits), device=batch.x.device).float()
        change = model.encoder(batch.x, message)
        wrong = functional.binary_cross_entropy_with_logits(model.decoder((batch.x + change).clamp(0, 1)), message)
        self.smooth.lerp_(wrong.detach(), 0.05)
        self.read |= self.smooth < LEGIBLE
        loss: Tensor = self.how.legible * wrong + self.read * self.how.invisible * change.square().mean()
        return loss[None]
