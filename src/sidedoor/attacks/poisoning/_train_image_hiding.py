"""Poison Ink's training of the networks that hide inked edges in images and find them again.

Paper: Zhang, Chen, Huang, Liao, Zhang, Feng, Hua, Yu, "Poison Ink: Robust and Invisible Backdoor Attack", IEEE TIP
2022, arXiv:2108.02488, section IV-B.

The paper leaves open the weights of the adversarial loss and of the clean loss (λ), and how much edges count more than
the white around them; here they are parameters, with defaults of the order that the authors' release has. After the
interference the extractor's target is drawn anew from the transformed cover, as in that release. Crop, resize, flip and
rotation are one affine map, each with probability 1/2; what comes in at the edges is black. The adversarial loss is
that of least squares. The clean loss is estimated on a quarter of each batch, which saves a third of the time.

Training goes step by step, as the authors' release advises: first the pattern has only to come out again, then the
interference sets in, then the distance to the cover begins to count. All at once, with few epochs, nothing is learned:
where nothing is hidden the distance to the cover has a kink that no other loss leads out of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.attacks.poisoning._image_hiding import Critic, Extractor, Injection
from sidedoor.data.base import Dataset
from sidedoor.engine import Objective, Player, Recipe, Run
from sidedoor.image.geometry import affine, warped
from sidedoor.method import Count, Method, NonNegative, Positive, Share, lasting
from sidedoor.triggers.ink import LEVELS, Pen, draw
from sidedoor.types import Batch, Images

SMALLEST, DEGREES = 0.875, 15.0
"""Of the interference: the smallest window or image, as a share of the side; the largest angle."""


SIZES: dict[str, dict[str, Any]] = {
    "paper": {"width": 64, "extractor": 128, "blocks": 7, "lr": 2e-4, "batch": 32},
    "small": {"width": 16, "extractor": 32, "blocks": 3, "lr": 2e-3, "batch": 16},
    "tiny": {"width": 2, "extractor": 4, "blocks": 1, "lr": 2e-3, "batch": 16},
}
"""The paper's networks; smaller ones that one CPU core trains in a quarter of an hour; the smallest, for tests."""
DISTURBED, FAINT = (0.15, 0.4), (0.4, 0.7)
"""Shares of training over which the interference, and then the distance to the cover, rise to their full strength."""


@dataclass(frozen=True)
class ImageHidingTraining(Method):
    """How the injection network and the extractor are trained, and how large they are.

    Args:
        width: channels of the injection network and of the critic; 64 is the paper's.
        extractor: channels of the extractor, 128 in the paper, with `blocks` residual blocks, 7 in the paper.
        epochs: of training, with `lr` for Adam, in batches of `batch`.
        interference: probability of each operator between injection and extraction, 1/2 in the paper; 0 for none.
        adversarial: weight of the adversarial loss; 0 for none.
        invisible: weight of the distance to the cover (Eq. 5).
        clean: λ, weight of the patterns that the extractor finds in untouched covers (Eq. 7).
        edges: weight of inked pixels against white ones in the pattern that it should find.
    """

    width: Count = 64
    extractor: Count = 128
    blocks: Count = 7
    epochs: Count = 200
    lr: Positive = 2e-4
    batch: Count = 32
    interference: Share = 0.5
    adversarial: NonNegative = 0.01
    invisible: NonNegative = 3.0
    clean: NonNegative = 1.0
    edges: Positive = 13.0

    def deciding(self, pen: Pen, seed: int) -> dict[str, Any]:
        """What decides the networks, beside the data, as JSON values."""
        return {"hiding": lasting(self), "pen": lasting(pen), "seed": seed, "version": 3}

    def train_or_load(self, train: Dataset, pen: Pen, run: Run) -> ImageHidingNetworks:
        """Both networks, from the run's shelf if it has them."""
        channels = train.shape[0]
        key = self.deciding(pen, run.seed) | {"data": train.fingerprint()}

        def build() -> ImageHidingNetworks:
            injection = Injection(channels, self.width)
            return ImageHidingNetworks(injection, Extractor(channels, self.extractor, self.blocks))

        def make(there: Run) -> nn.Module:
            recipe = Recipe(optimizer="adam", lr=self.lr, momentum=0.5, weight_decay=0.0, schedule="cosine",
                            epochs=self.epochs, batch=self.batch, clip=1.0)
            plain = replace(there, recipe=recipe, augment=None)
            critic = plain.within("critic").build(lambda: Critic(channels, self.width))
            assert isinstance(critic, Critic)
            objective = _HideAndFind(self, pen, critic, recipe)
            return plain.fit(plain.build(build), train, objective, name="injection")

        # Always in full precision, as triggers are stamped: bfloat16 hardly resolves a level or two.
        networks = replace(run, recipe=replace(run.recipe, precision="32")).artefact(key, build, make)
        assert isinstance(networks, ImageHidingNetworks)
        return networks


class ImageHidingNetworks(nn.Module):
    """The injection network and the extractor, which are trained together: the second finds what the first hid."""

    def __init__(self, injection: Injection, extractor: Extractor):
        super().__init__()
        self.injection, self.extractor = injection, extractor


class _HideAndFind(Objective):
    """L_total (Eq. 8) of both networks, and the critic's loss (Eq. 6)."""

    disturbed: Tensor
    faint: Tensor

    def __init__(self, how: ImageHidingTraining, pen: Pen, critic: Critic, recipe: Recipe):
        super().__init__()
        self.how, self.pen, self.critic, self.recipe = how, pen, critic, recipe
        self.last: tuple[Images, Images] | None = None
        # Strength of the interference and of the distance to the cover so far; buffers, so that phases resume.
        self.register_buffer("disturbed", torch.zeros(()))
        self.register_buffer("faint", torch.zeros(()))

    def end_epoch(self, model: nn.Module, epoch: int) -> bool:
        done = (epoch + 1) / self.how.epochs
        for share, (first, last) in ((self.disturbed, DISTURBED), (self.faint, FAINT)):
            share.fill_(min(1.0, max(0.0, (done - first) / (last - first))))
        return False

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        assert isinstance(model, ImageHidingNetworks)
        cover, how = batch.x, self.how
        inks = _inks(len(cover), cover.shape[1], cover.device)
        hidden = model.injection(cover, draw(self.pen.lines(cover), inks))
        self.last = (cover, hidden.detach())
        theta = interference(cover.shape, how.interference * self.disturbed.item(), cover.device)
        after, untouched = warped(hidden, theta), warped(cover, theta)
        both = model.extractor(torch.cat([after, untouched[::4]]))
        found, nothing = both[:len(cover)], both[len(cover):]
        # A fixed picture moves with the image; edges are found anew.
        lines = warped(self.pen.lines(cover).float(), theta) > 0.5 if self.pen.picture else self.pen.lines(untouched)
        weight = torch.where(lines, how.edges, 1.0)
        total = (weight * (found - draw(lines, inks)).square()).mean() + how.clean * (nothing - 1).square().mean()
        total = total + self.faint * how.invisible * (hidden - cover).abs().mean()  # Eq. (5) with k = 1, Eq. (7)
        if how.adversarial:
            total = total + how.adversarial * (self.critic(hidden) - 1).square().mean()
        losses: Tensor = total[None]
        return losses

    def players(self, model: nn.Module) -> list[Player]:
        return [Player(list(self.critic.parameters()), self.recipe, self._critic_loss)] if self.how.adversarial else []

    def _critic_loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        assert self.last is not None
        cover, hidden = self.last
        loss: Tensor = 0.5 * ((self.critic(cover) - 1).square().mean() + self.critic(hidden).square().mean())
        return loss


def interference(shape: Sequence[int], probability: float, device: torch.device) -> Float[Tensor, "b 2 3"]:
    """Random crop, resize, flip and rotation of (b, c, h, w), each with a probability, as maps for `warped`."""
    count = shape[0]
    crop, small, mirror, turn = torch.rand(4, count, device=device) < probability
    shares = SMALLEST + (1 - SMALLEST) * torch.rand(2, count, device=device)
    # Maps lead from the output to the input: a crop looks at less of it, a smaller image at more.
    scale = torch.where(crop, shares[0], 1.0) / torch.where(small, shares[1], 1.0)
    degrees = DEGREES * (2 * torch.rand(count, device=device) - 1) * turn
    shift = (2 * torch.rand(2, count, device=device) - 1) * (1 - scale).abs()
    return affine(shape, degrees, scale, shift.T, mirror)


def _inks(count: int, channels: int, device: torch.device) -> Float[Tensor, "b c"]:
    levels = torch.tensor(LEVELS, device=device) / 255
    return levels[torch.randint(len(LEVELS), (count, channels), device=device)]
