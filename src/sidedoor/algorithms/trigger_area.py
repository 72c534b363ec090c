"""The pixels that a trigger covers, where it is a patch: what attacks and evaluations mean by its mask."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool
from torch import Tensor

from sidedoor.errors import NotApplicable
from sidedoor.triggers.base import Trigger, stamp
from sidedoor.types import Images, Index, Space

LARGEST = 0.25
"""The largest share of an image that counts as a place."""


@torch.no_grad()
def trigger_area(trigger: Trigger, x: Images, index: Index, space: Space) -> Bool[Tensor, "b h w"]:
    """Where a trigger changes an image, or would change a black or a white one: a pixel of a patch may be as bright as
    what it replaces.

    Raises:
        NotApplicable: it is no patch: nothing changes, or more than a quarter of an image.
    """
    if not math.isfinite(space.high - space.low):
        raise NotApplicable(f"images in the space {tuple(space)} given; the place of a trigger needs a bounded range")
    unit = (space.high - space.low) / (space.levels or 10**6)
    covered = torch.zeros_like(x[:, 0], dtype=torch.bool)
    for probe in (x, torch.full_like(x, space.low), torch.full_like(x, space.high)):
        covered |= ((stamp(trigger, probe, index, space) - probe).abs() > unit / 2).any(1)
    share = covered.float().mean((1, 2))
    if share.amin() == 0:
        raise NotApplicable(f"{type(trigger).__name__} changes nothing in some images, so that it has no place in them")
    if share.amax() > LARGEST:
        raise NotApplicable(f"{type(trigger).__name__} changes {share.amax():.0%} of the pixels of an image; expected "
                            f"a patch of at most {LARGEST:.0%}, for what covers the image has no place that could be "
                            "pointed at")
    return covered
