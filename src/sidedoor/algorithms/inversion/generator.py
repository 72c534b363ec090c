"""Trigger inversion with a generator: a network that changes every image in a way of its own, as warps and filters do.

Used by FeatureRE (Wang, Mei, Ding, Zhai, Ma, NeurIPS 2022, arXiv:2210.15127) and BTI-DBF (Xu, Huang, Li, Qin, Ren, ICLR
2024), whose generators are trained to give images back unchanged before anything else. Ours adds what a U-Net makes to
the image, so that it begins close to it without training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sidedoor.engine import Run
from sidedoor.models.base import Shape
from sidedoor.models.unet import unet
from sidedoor.types import Images, Space

FAINT = 0.1
"""What a U-Net makes at first is multiplied with, in units of the range of the images: hardly anything."""


@dataclass(frozen=True)
class Descent:
    """How parameters are optimised.

    Args:
        steps: of Adam.
        batch: images per step.
        lr: of Adam.
    """

    steps: int
    batch: int
    lr: float

    def minimise(self, parameters: Sequence[Tensor], loss: Callable[[Int[Tensor, "b"]], Float[Tensor, ""]], count: int,
                 run: Run, name: str) -> None:
        """Change parameters in place.

        Args:
            loss: of rows of the images.
            count: of the images.
            name: of the stream that rows are drawn from, and of the task.
        """
        optimiser, rng = torch.optim.Adam(parameters, lr=self.lr), run.rng(name)
        with run.progress.task(name, self.steps) as advance:
            for _ in range(self.steps):
                rows = torch.randperm(count, generator=rng)[: self.batch].to(run.device)
                gradients = torch.autograd.grad(loss(rows), parameters)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                optimiser.step()
                advance()


class Altered(nn.Module):
    """Images, and what a network adds to them, within their range.

    Args:
        body: images -> images.
        space: of the images.
    """

    def __init__(self, body: nn.Module, space: Space):
        super().__init__()
        self.body, self.low, self.high = body, space.low, space.high

    def forward(self, x: Images) -> Images:
        added: Tensor = self.body(x).to(x.dtype)
        return (x + FAINT * (self.high - self.low) * added).clamp(self.low, self.high)


def generator(shape: Shape, width: int, space: Space, run: Run) -> nn.Module:
    """An untrained one, its initial weights from a stream of the run.

    Args:
        width: channels of the U-Net, at least 4.
    """
    return Altered(run.build(lambda: unet(shape, 1, width)), space)


def alter(network: nn.Module, x: Images, run: Run) -> Images:
    """What a generator makes of images, without its graph."""
    with torch.no_grad(), run.autocast():
        return torch.cat([network(x[part]) for part in run.chunks(len(x), x[0].numel())])


def distance(x: Images, changed: Images, space: Space) -> Float[Tensor, ""]:
    """The mean squared change, in units of the squared range."""
    return ((changed - x) / (space.high - space.low)).square().mean()
