"""The currency between modules: batches and the values that images may take. Everything else imports this.

An image batch is `(b, c, h, w)` float32; photographs live in [0, 1] and normalisation is the model's first layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Images = Float[Tensor, "b c h w"]
Index = Int[Tensor, "b"]
Build = Callable[[], nn.Module]
Purify = Callable[[Images, Index], tuple[Images, Callable[[Any], Any]]]
"""What a fitted purifier is: (x, index) -> (x, undo); `undo` realigns dense outputs after a flip or shift,
or puts classes back that a purifier permutes."""


class Batch(NamedTuple):
    """Samples on one device. `index` is the position in the base data set and keys per-sample randomness."""

    x: Tensor
    y: Tensor
    index: Tensor  # type: ignore[assignment]  # shadows tuple.index, which nobody misses


class Space(NamedTuple):
    """The values an image may take: the range, and the number of steps that storage keeps (None: not stored)."""

    low: float
    high: float
    levels: int | None


PHOTO = Space(0.0, 1.0, 255)
MEASUREMENT = Space(-math.inf, math.inf, None)


class Labelled(Protocol):
    """What a goal knows of the task: the number of classes, and when an output agrees with a target."""

    classes: int

    def agree(self, output: Any, target: Tensor) -> Float[Tensor, "b"]: ...


def joined(first: Batch, second: Batch) -> Batch:
    """Two batches as one."""
    return Batch(*map(torch.cat, zip(first, second, strict=True)))


def to_levels(x: Images, space: Space, out: Tensor | None = None) -> Images:
    """Values of a space with levels as numbers in [0, levels], not rounded; into `out`, which may be `x`, if given."""
    assert space.levels is not None
    unit = x if (space.low, space.high) == (0.0, 1.0) else (x - space.low) / (space.high - space.low)
    return torch.mul(unit, space.levels, out=out)


def from_levels(levels: Images, space: Space, out: Tensor | None = None) -> Images:
    """Numbers in [0, levels] as values of the space; the one formula, so that what was stored is read back exactly.

    Args:
        out: what may be overwritten by the result, `levels` too.
    """
    assert space.levels is not None
    unit = torch.div(levels, space.levels, out=out)
    return unit if (space.low, space.high) == (0.0, 1.0) else unit * (space.high - space.low) + space.low
