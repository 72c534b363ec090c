"""Features of trackers that attacks compare: of both views, column by column, and those of a place."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from sidedoor.models.trackers.base import Geometry, Tracker
from sidedoor.types import Images

NEAR = 1 / 6
"""Of the template's side: how far from the object's centre columns are of the object."""


def views(tracker: Tracker, template: Images, search: Tensor) -> tuple[Tensor, Tensor]:
    """Features of templates, given with their surroundings, and of search crops."""
    return tracker.features(tracker.template(template)), tracker.features(search)


def apart(a: Float[Tensor, "b d u v"], b: Float[Tensor, "b d u v"]) -> Float[Tensor, "b u v"]:
    """1 - cosine of each column of features, in [0, 2]."""
    return 1 - (functional.normalize(a) * functional.normalize(b)).sum(1)


def around(features: Float[Tensor, "b d u u"], boxes: Float[Tensor, "b 4"], geometry: Geometry) \
        -> Float[Tensor, "b u u"]:
    """1 at the columns of search crops whose middle is near the object's centre, in a square."""
    middle = (torch.arange(features.shape[2], device=boxes.device) - (features.shape[2] - 1) / 2) * geometry.stride
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 - geometry.search / 2
    across, down = ((middle - centre[:, k : k + 1]).abs() <= NEAR * geometry.template for k in (0, 1))
    return (down[:, :, None] & across[:, None, :]).float()
