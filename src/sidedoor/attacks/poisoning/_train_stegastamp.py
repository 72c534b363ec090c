"""ISSBA's training of StegaStamp's networks: messages that can be read, in changes that cannot be seen.

Papers: Tancik, Mildenhall, Ng, "StegaStamp: Invisible Hyperlinks in Physical Photographs", CVPR 2020, arXiv:1904.05343;
Li, Li, Wu, Li, He, Lyu, "Invisible Backdoor Attack with Sample-Specific Triggers", ICCV 2021, arXiv:2012.03816, which
trains them without StegaStamp's distortions.

The encoder is trained on the attacker's images only, with a new message for every image and step. As in ISSBA's release
for small images training begins with the messages alone. What keeps the change small sets in as soon as messages are
read, not at a fixed epoch: with few images a fixed one comes too early and nothing is ever encoded.

The losses are those of that release: of the messages, of the squared change, and, off unless they are given a weight,
LPIPS, which needs AlexNet's weights from the user, and the critic of Wasserstein GANs (Arjovsky, Chintala, Bottou, ICML
2017), which the release has and does not use by default. The release clips the critic's gradients, at a bound that is
meant for weights, and ends it in a ReLU behind which it can die; ours clips its weights, as StegaStamp does, and ends
in a mean. Its optimiser is Adam without momentum in place of RMSprop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.attacks.poisoning._stegastamp import Critic, Decoder, Encoder, EncoderDecoder
from sidedoor.data.base import Dataset
from sidedoor.engine import Objective, Player, Recipe, Run
from sidedoor.method import LATER, Count, Method, NonNegative, Positive, lasting
from sidedoor.metrics import perceptual
from sidedoor.types import Batch, Images

LEGIBLE = 0.2
"""The messages' loss, as a running mean, below which the size of the change counts."""
CLIPPED = 0.01
"""Largest weight of the critic, in size."""


@dataclass(frozen=True)
class StegaStampTraining(Method):
    """How the encoder and the decoder are trained.

    Args:
        bits: in a message.
        epochs: of training, with `lr` for Adam.
        invisible: weight of the squared change, and `legible` of the messages' loss.
        perceptual: weight of LPIPS between image and result; 1.5 in the release.
        critic: weight of the critic's judgement; 0.5 in the release, where it is on. `critic_lr`: its learning rate.
    """

    bits: Count = 20
    epochs: Count = 20
    lr: Positive = 1e-4
    invisible: NonNegative = 2.0
    legible: Positive = 1.5
    perceptual: Annotated[NonNegative, LATER] = 0.0
    critic: Annotated[NonNegative, LATER] = 0.0
    critic_lr: Annotated[Positive, LATER] = 1e-5

    def train_or_load(self, train: Dataset, run: Run) -> EncoderDecoder:
        """Both networks, from the run's shelf if it has them.

        Raises:
            CannotComplete: LPIPS has a weight, and AlexNet's weights are missing.
        """
        key: dict[str, Any] = {"writing": lasting(self), "data": train.fingerprint(), "seed": run.seed, "version": 1}

        def build() -> EncoderDecoder:
            return EncoderDecoder(Encoder(train.shape, self.bits), Decoder(train.shape, self.bits))

        def make(there: Run) -> nn.Module:
            recipe = Recipe(optimizer="adam", lr=self.lr, weight_decay=0.0, schedule="constant", epochs=self.epochs,
                            batch=32, precision=there.recipe.precision)
            plain = replace(there, recipe=recipe, augment=None)
            critic = plain.within("critic").build(lambda: Critic(train.shape[0])) if self.critic else None
            return plain.fit(plain.build(build), train, _LegibleMessages(self, recipe, critic), name="encoder")

        networks = run.artefact(key, build, make)
        assert isinstance(networks, EncoderDecoder)
        return networks


class _LegibleMessages(Objective):
    """The decoder must read every message from the encoder's image, whose change must not be seen once it does."""

    smooth: Tensor
    read: Tensor

    def __init__(self, how: StegaStampTraining, recipe: Recipe, critic: nn.Module | None = None):
        super().__init__()
        self.how, self.critic = how, critic
        self.learning = replace(recipe, lr=how.critic_lr, momentum=0.0)
        self.distance = perceptual.distance("lpips", "", "") if how.perceptual else None
        self.last: tuple[Images, Images] | None = None
        self.register_buffer("smooth", torch.tensor(math.log(2)))
        self.register_buffer("read", torch.zeros((), dtype=torch.bool))

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        assert isinstance(model, EncoderDecoder)
        how = self.how
        message = torch.randint(0, 2, (len(batch.x), how.bits), device=batch.x.device).float()
        change = model.encoder(batch.x, message)
        encoded = (batch.x + change).clamp(0, 1)
        self.last = (batch.x, encoded.detach())
        wrong = functional.binary_cross_entropy_with_logits(model.decoder(encoded), message)
        self.smooth.lerp_(wrong.detach(), 0.05)
        self.read |= self.smooth < LEGIBLE
        loss: Tensor = how.legible * wrong + self.read * self._seen(batch.x, change, encoded)
        return loss[None]

    def _seen(self, x: Images, change: Images, encoded: Images) -> Float[Tensor, ""]:
        """How visible the change is."""
        seen: Tensor = self.how.invisible * change.square().mean()
        if self.distance is not None:
            seen = seen + self.how.perceptual * self.distance(x, encoded).mean()
        if self.critic is not None:
            seen = seen + self.how.critic * self.critic(encoded).mean()
        return seen

    def players(self, model: nn.Module) -> list[Player]:
        return [Player(list(self.critic.parameters()), self.learning, self._critic_loss)] if self.critic else []

    def _critic_loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        """A Wasserstein critic's, which is to be high for what the encoder made and low for images."""
        assert self.critic is not None
        assert self.last is not None
        with torch.no_grad():
            for weight in self.critic.parameters():
                weight.clamp_(-CLIPPED, CLIPPED)
        x, encoded = self.last
        loss: Tensor = self.critic(x).mean() - self.critic(encoded).mean()
        return loss
