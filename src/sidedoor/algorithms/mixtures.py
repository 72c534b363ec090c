"""Training on mixtures of images and labels, one or several of each batch.

Papers: Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arXiv:1710.09412, for
the loss of a mixture; Gong, Ren, Ye, Liu, "MaxUp: A Simple Way to Improve Generalization of Neural Network Training",
2020, arXiv:2002.09024, for several copies, of which the worst counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.engine import Objective
from sidedoor.types import Batch, Images


class Mixture(NamedTuple):
    """Images made of several ones each.

    Args:
        x: the images.
        labels: those of the images that each was made of.
        weights: how much each counts; they add up to 1 for an image.
    """

    x: Images
    labels: Int[Tensor, "parts b"]
    weights: Float[Tensor, "parts b"]


class OnMixtures(Objective):
    """The mean loss of mixtures of a batch, with `copies` of them the mean over samples of the largest loss.

    All copies pass the network at once, so that batch statistics are those of all.

    Args:
        mix: a batch -> a mixture of it, drawn from torch's default generators.
        copies: of each batch.
        after: epochs with a single copy before.
    """

    epoch: Tensor

    def __init__(self, mix: Callable[[Batch], Mixture], copies: int, after: int):
        super().__init__()
        self.mix, self.copies, self.after = mix, copies, after
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        made = [self.mix(batch) for _ in range(self.copies if self.epoch >= self.after else 1)]
        outputs = model(torch.cat([mixture.x for mixture in made])).chunk(len(made))
        each = torch.stack([mixed_loss(logits, mixture) for logits, mixture in zip(outputs, made, strict=True)])
        return each.amax(0).mean()[None]

    def end_epoch(self, model: nn.Module, epoch: int) -> bool:
        self.epoch.fill_(epoch + 1)
        return False


def mixed_loss(logits: Float[Tensor, "b k"], mixture: Mixture) -> Float[Tensor, "b"]:
    """The cross-entropy to each label, times its weight."""
    each = [functional.cross_entropy(logits, y, reduction="none") for y in mixture.labels]
    return (mixture.weights * torch.stack(each)).sum(0)
