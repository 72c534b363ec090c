"""Cognitive patterns: the smallest part of an image from which a model gives the same output.

Paper: Huang, Ma, Erfani, Bailey, "Distilling Cognitive Backdoor Patterns within an Image", ICLR 2023, arXiv:2301.10908.

What a mask takes away is replaced by a random colour of the image, another one every step. How much the mask costs
decides what is left, and the right cost depends on the scale of the logits and the size of the images, so it is chosen
on clean ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.core import random
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.types import Images, Index

COSTS = (-5.0, 0.0)
"""The exponents of ten between which a cost is looked for."""
HALVINGS = 6


@dataclass(frozen=True)
class PatternSearch:
    """Minimise the mean absolute change of the logits plus a cost times the L1 norm of the mask, for every image.

    Args:
        steps: of Adam with betas (0.1, 0.1).
        lr: its learning rate.
        smoothness: weight of the mean squared difference between neighbours in the mask.
    """

    steps: int
    lr: float
    smoothness: float

    def masks(self, model: nn.Module, x: Images, index: Index, cost: Float[Tensor, "b"],
              run: Run) -> Float[Tensor, "b h w"]:
        """The mask of each image, in [0, 1]; its random colours are keyed by its index.

        Args:
            model: a frozen one, images to logits.
            cost: of a pixel of the mask, one for each image.
        """
        seed = random.seed_of(run.seed, f"{run.scope}colours")
        return torch.cat([self._search(model, x[rows], random.uniform(seed, index[rows], self.steps, x.shape[1]),
                                       cost[rows], run) for rows in run.chunks(len(x), x[0].numel())])

    @torch.enable_grad()
    def _search(self, model: nn.Module, x: Images, colours: Float[Tensor, "b steps c"], cost: Float[Tensor, "b"],
                run: Run) -> Float[Tensor, "b h w"]:
        raw = torch.ones(len(x), 1, *x.shape[2:], device=x.device, requires_grad=True)
        optimiser = torch.optim.Adam([raw], lr=self.lr, betas=(0.1, 0.1))
        with torch.no_grad(), run.autocast():
            answer = model(x).float()
        for step in range(self.steps):
            mask = raw.tanh() / 2 + 0.5
            with run.autocast():
                changed = model(x * mask + (1 - mask) * colours[:, step, :, None, None]).float() - answer
            loss = changed.abs().mean(1) + cost * mask.sum((1, 2, 3)) + self.smoothness * roughness(mask)
            (raw.grad,) = torch.autograd.grad(loss.sum(), raw)
            optimiser.step()
        return (raw.detach().tanh() / 2 + 0.5)[:, 0]


def roughness(mask: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b"]:
    """The sum of squared differences between neighbours, over the number of pixels."""
    down, across = mask.diff(dim=2).square(), mask.diff(dim=3).square()
    total: Tensor = down.sum((1, 2, 3)) + across.sum((1, 2, 3))
    return total / mask[0].numel()


def cost_for(keep: float, model: nn.Module, clean: Dataset, search: PatternSearch, samples: int, run: Run) -> float:
    """The cost at which the median mask of clean images keeps a share of their pixels, by bisection."""
    chosen = torch.randperm(len(clean), generator=run.rng("cost"))[:samples]
    x, _, index = clean.fetch(chosen, run.device)
    low, high = COSTS
    with run.progress.task("cost of a mask", HALVINGS) as advance:
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            cost = torch.full((len(x),), 10**middle, device=x.device)
            large = search.masks(model, x, index, cost, run).mean((1, 2)).median().item() > keep
            low, high = (middle, high) if large else (low, middle)
            advance()
    return math.pow(10, (low + high) / 2)
