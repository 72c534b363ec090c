"""A message that a network writes into each sample in its own way, on mislabelled samples.

Paper: Li, Li, Wu, Li, He, Lyu, "Invisible Backdoor Attack with Sample-Specific Triggers", ICCV 2021, arXiv:2012.03816.

The encoder is trained on the training images only, with a new message for every image and step. As in the release for
small images training begins with the messages alone and has no critic. The change is held small from when messages are
read, not from a fixed epoch: with few images a fixed one comes too early and nothing is ever written. The perceptual
distance needs weights that cannot be shipped, so that the squared distance stands alone. Only data is poisoned; what
releases do, poisoned samples in every batch, is `per_batch` with this attack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.attacks.base import Attack
from sidedoor.data import select
from sidedoor.data.base import Dataset
from sidedoor.engine import Objective, Recipe, Run
from sidedoor.method import Count, NonNegative, Positive, Share
from sidedoor.stegastamp import Decoder, Encoder
from sidedoor.triggers.encoded import Encoded, messages
from sidedoor.types import Access, Backdoor, Batch, Build, Door, Task

LEGIBLE = 0.2
"""The messages' loss, as a running mean, from which on the change shall be small."""


@dataclass(frozen=True)
class ISSBA(Attack):
    """Write one message into a share of the eligible samples and change their labels; further targets have another.

    Args:
        rate: share of the eligible training samples, in [0, 1].
        bits: in a message.
        epochs: of training the networks, with `lr` for Adam.
        invisible: weight of the squared change, and `legible` of the messages' loss, in the rest.
        network_seed: of the networks, to share them between runs of several seeds: None for the run's own.
    """

    access: ClassVar[Access] = Access.DATA
    rate: Share = 0.1
    bits: Count = 20
    epochs: Count = 20
    lr: Positive = 1e-4
    invisible: NonNegative = 2.0
    legible: Positive = 1.5
    network_seed: int | None = None

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Backdoor:
        there = run if self.network_seed is None else replace(run, seed=self.network_seed)
        goals = self.goal.parts()
        network = self._learned(train, there).encoder
        doors = tuple(Door(Encoded(network, message), goal) for message, goal in
                      zip(messages(len(goals), self.bits, there.rng("messages")), goals, strict=True))
        return Backdoor(doors, select.random(train, task, doors, self.rate, run.rng("poison")))

    def _learned(self, train: Dataset, run: Run) -> _Pair:
        how = {"bits": self.bits, "epochs": self.epochs, "lr": self.lr, "invisible": self.invisible,
               "legible": self.legible}
        key: dict[str, Any] = {"issba": how, "data": train.fingerprint(), "seed": run.seed, "version": 1}

        def build() -> _Pair:
            return _Pair(Encoder(train.shape, self.bits), Decoder(train.shape, self.bits))

        def make(there: Run) -> nn.Module:
            recipe = Recipe(optimizer="adam", lr=self.lr, weight_decay=0.0, schedule="constant", epochs=self.epochs,
                            batch=32)
            plain = replace(there, recipe=recipe, augment=None)
            return plain.fit(plain.build(build), train, _Write(self), name="encoder")

        pair = run.artefact(key, build, make)
        assert isinstance(pair, _Pair)
        return pair


class _Pair(nn.Module):
    def __init__(self, encoder: Encoder, decoder: Decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder


class _Write(Objective):
    """The messages must be read from what was written, which shall be little as soon as they are."""

    smooth: Tensor
    read: Tensor

    def __init__(self, attack: ISSBA):
        super().__init__()
        self.attack = attack
        self.register_buffer("smooth", torch.tensor(math.log(2)))
        self.register_buffer("read", torch.zeros((), dtype=torch.bool))

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, _Pair)
        message = torch.randint(0, 2, (len(batch.x), self.attack.bits), device=batch.x.device).float()
        change = model.encoder(batch.x, message)
        wrong = functional.binary_cross_entropy_with_logits(model.decoder((batch.x + change).clamp(0, 1)), message)
        self.smooth.lerp_(wrong.detach(), 0.05)
        self.read |= self.smooth < LEGIBLE
        loss: Tensor = self.attack.legible * wrong + self.read * self.attack.invisible * change.square().mean()
        return loss[None]
