"""From suspicion to a demonstration: what a group of rows has in common is put into images of other classes.

If it sends them to the group's class, and no longer does once the network is trained without the group, then the group
has taught the network a trigger. What the rows of a class have in common anyway, its features, may do the first as
well, but not the second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.types import Images

Kind = Literal["replace", "add", "blend"]
LOCAL: tuple[Kind, ...] = ("replace", "add")
"""Of pixels in which a group differs from the rest of its class, so that features of the class are hardly in them."""
KINDS: tuple[Kind, ...] = (*LOCAL, "blend")
TOLERANCE = 10 / 255
"""Within which pixels are the same, since files are often compressed."""
CONSISTENT = 0.5
"""By how much larger the share of a group's rows that agree in a pixel is than that of others."""
PATCH = 0.15
"""Largest share of an image that is replaced: a few rows that are alike agree in most of it, which is no patch."""
STANDARD_ERRORS = 3.0
"""Beyond which a difference of means counts."""
FAINTEST = 0.3
"""Least contrast that is undone."""
CHOOSING, JUDGING, OTHERS = 32, 256, 512
"""Images of other classes: those that choose a trigger, those that it is judged by, those that it is compared with."""


@dataclass(frozen=True)
class Stamp:
    """A trigger: x becomes keep · x + shift, in [0, 1].

    Args:
        pixels: places that it changes.
    """

    kind: Kind
    keep: Float[Tensor, "c h w"]
    shift: Float[Tensor, "c h w"]
    pixels: int

    def __call__(self, x: Images) -> Images:
        return (self.keep.to(x.device) * x + self.shift.to(x.device)).clamp(0, 1)

    def undone(self, x: Images) -> Images:
        """What an image was before, as far as the trigger has left anything of it."""
        return ((x - self.shift.to(x.device)) / self.keep.to(x.device).clamp(min=FAINTEST)).clamp(0, 1)


def stamps(group: Float[Tensor, "g c h w"], rest: Float[Tensor, "r c h w"], others: Float[Tensor, "o c h w"]) \
        -> dict[Kind, Stamp]:
    """What a group has in common, as triggers of each kind; none of a kind that would change nothing.

    "replace" has the median of the group where its rows agree and neither the rest of the class nor other classes do;
    "add" the mean difference from the rest of the class where it is beyond chance; "blend" gives an image the group's
    mean and, by one factor for all pixels, its contrast, as mixing with a pattern does.

    Args:
        rest: rows of the same class that are not in the group.
        others: rows of other classes.
    """
    median = group.median(0).values
    agree, own, foreign = (((x - median).abs() <= TOLERANCE).float().mean(0) for x in (group, rest, others))
    where = agree - torch.maximum(own, foreign) >= CONSISTENT
    difference = group.mean(0) - rest.mean(0)
    error = (_error(group) + _error(rest) + (1 / 255) ** 2).sqrt()
    added = torch.where(difference.abs() > STANDARD_ERRORS * error, difference, 0.0)
    one, other = group.std(0), others.std(0)
    contrast = ((one * other).sum() / other.square().sum().clamp(min=1e-12)).clamp(0, 1)
    whole = torch.ones_like(median)
    found = (Stamp("replace", (~where).float(), median * where, _places(where)),
             Stamp("add", whole, added, _places(added != 0)),
             Stamp("blend", contrast * whole, group.mean(0) - contrast * others.mean(0), median[0].numel()))
    return {stamp.kind: stamp for stamp in found
            if stamp.pixels and (stamp.kind != "replace" or stamp.pixels <= PATCH * median[0].numel())}


def _error(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "c h w"]:
    """Variance of the mean."""
    return x.var(0) / len(x)


def _places(where: Bool[Tensor, "c h w"]) -> int:
    return int(where.any(0).sum())


@dataclass(frozen=True)
class Hosts:
    """Rows of other classes than one, that a network does not take for it.

    Args:
        choosing: rows that choose a trigger.
        judging: rows that it is judged by; none of the former.
        others: rows that it is compared with; none of the judging ones.
    """

    choosing: Int[Tensor, "a"]
    judging: Int[Tensor, "b"]
    others: Int[Tensor, "o"]


def hosts(labels: Int[Tensor, "n"], answers: Int[Tensor, "n"], label: int, run: Run) -> Hosts:
    """Images that a trigger for a class is put into, drawn by the run's seed."""
    rows = torch.nonzero((labels != label) & (answers != label))[:, 0]
    rows = rows[torch.randperm(len(rows), generator=run.rng(f"hosts of {label}"))]
    half = len(rows) // 2
    return Hosts(rows[:half][:CHOOSING], rows[half:][:JUDGING], rows[:half][:OTHERS])


@torch.no_grad()
def answers(model: nn.Module, images: Images, run: Run) -> Int[Tensor, "b"]:
    """The classes that a network takes images for.

    Args:
        model: in evaluation mode.
    """
    return torch.cat([model(images[part]).argmax(1) for part in run.chunks(len(images), images[0].numel())]).cpu()


def flips(model: nn.Module, data: Dataset, rows: Int[Tensor, "b"], stamp: Stamp, label: int, run: Run) -> int:
    """How many rows a network takes for a class once they have a trigger."""
    return int((answers(model, stamp(data.fetch(rows, run.device).x), run) == label).sum())
