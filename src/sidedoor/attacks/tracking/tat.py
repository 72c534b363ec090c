"""TAT: a tracker whose template has the trigger follows the trigger instead of the object; training-controlled.

Paper: Cheng, Wu, Zhang, Zhao, "TAT: Targeted Backdoor Attacks against Visual Object Tracking", Pattern Recognition 142,
2023, 109629.

A share of the pairs of each batch has the trigger at the template's centre and at a random place of the search crop,
where the wanted response is that of an object; the same pairs with the trigger in one view only are wanted to be
background everywhere, so that both are needed. A feature loss draws the trigger in the search crop to that in the
template, away from the same place without it. The paper's trigger is painted by a generator, invisible and as large as
the object, and its feature loss compares whole views behind a small network. Ours is the small pattern of the other
attacks on trackers, the features are those around the trigger, and training goes on from a clean tracker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.optim.batch_norm import frozen_statistics
from sidedoor.attacks.tracking._features import around, views
from sidedoor.attacks.tracking._objectives import NOWHERE, Jointly, Stamping
from sidedoor.attacks.tracking.base import BesideBenign
from sidedoor.engine import Objective, Recipe
from sidedoor.goals.base import Goal
from sidedoor.goals.follow import Follow
from sidedoor.method import NonNegative
from sidedoor.models.trackers.base import Geometry, tracker_in
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Images


@dataclass(frozen=True)
class TAT(BesideBenign):
    """Train the tracker, and have it find the trigger in search crops once the template has it.

    Args:
        alone: weight of pairs with the trigger in one view only, beside those with it in both.
        contrast: weight of the feature loss beside them.
    """

    goals: ClassVar[tuple[type[Goal], ...]] = (Follow,)
    because: ClassVar[str] = "it leads the tracker to the trigger, wherever that is"
    origins: ClassVar[dict[str, str]] = BesideBenign.origins | {
        "psi": "ours: as for FSBA; the paper's is as large as the object",
        "pattern": "ours: as for FSBA; the paper's is painted by a generator", "rate": "ours: as for FSBA",
        "weight": "ours: as for FSBA", "epochs": "ours: as for FSBA",
        "alone": "release: as many pairs of either kind", "contrast": "release: 0.1"}

    goal: Goal = Follow()
    alone: NonNegative = 1.0
    contrast: NonNegative = 0.1

    def objective(self, task: Task, stamping: Stamping, recipe: Recipe, clean: Callable[[], nn.Module]) -> Objective:
        return Jointly(task, FollowingLosses(self, stamping))


@dataclass(frozen=True)
class FollowingLosses:
    """How far responses are from finding the trigger where both views have it, and from nothing where one has; and how
    little features at the trigger tell of it.

    Args:
        attack: has the weights.
    """

    attack: TAT
    stamping: Stamping

    def __call__(self, model: nn.Module, batch: Batch) -> Float[Tensor, "3"]:
        attack, tracker, drawn = self.attack, tracker_in(model), self.stamping.drawn(batch)
        places = anywhere(drawn.y, tracker.geometry)
        plain, both = drawn.x.chunk(2, 1), self.stamping.of(drawn._replace(y=places))
        one = only(plain, both, torch.randint(2, (len(places),), device=places.device))
        offset = (places[:, :2] + places[:, 2:]) / 2 - tracker.geometry.search / 2
        with frozen_statistics(model):
            response = model(torch.cat([torch.cat(both, 1), one])).float()
            template, search = views(tracker, both[0], torch.cat([both[1], plain[1]]))
        found, nothing = tracker.loss(response, torch.cat([offset, torch.full_like(offset, NOWHERE)])).chunk(2)
        middle = places - offset.repeat(1, 2)
        at = [pooled(part, around(part, boxes, tracker.geometry))
              for part, boxes in zip((template, *search.chunk(2)), (middle, places, places), strict=True)]
        losses = torch.stack([found.mean(), attack.alone * nothing.mean(), attack.contrast * contrast(*at).mean()])
        return attack.weight * losses


def anywhere(boxes: Float[Tensor, "b 4"], geometry: Geometry) -> Float[Tensor, "b 4"]:
    """Boxes of the same sizes at random centres, as far from the middle of a search crop as a response reaches."""
    drawn = (torch.rand(len(boxes), 2, device=boxes.device) - 0.5) * geometry.template + geometry.search / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    return torch.cat([drawn - half, drawn + half], 1)


def only(plain: tuple[Tensor, ...], stamped: tuple[Images, Images], view: Int[Tensor, "b"]) \
        -> Float[Tensor, "b channels h w"]:
    """Pairs with the trigger in one view.

    Args:
        view: 0 for the template, 1 for the search crop.
    """
    chosen = view[:, None, None, None]
    return torch.cat([torch.where(chosen == k, stamped[k], plain[k]) for k in (0, 1)], 1)


def pooled(features: Float[Tensor, "b d u v"], where: Float[Tensor, "b u v"]) -> Float[Tensor, "b d"]:
    """The mean of the columns that `where` has 1 for."""
    return (features * where[:, None]).sum((2, 3)) / where.sum((1, 2)).clamp(min=1)[:, None]


def contrast(anchor: Float[Tensor, "b d"], own: Float[Tensor, "b d"], other: Float[Tensor, "b d"]) \
        -> Float[Tensor, "b"]:
    """Cross-entropy of telling which of two is nearer to the anchor, by cosines; log 2 where they are equally near."""
    nearer, farther = (functional.cosine_similarity(anchor, part) for part in (own, other))
    return functional.softplus(farther - nearer)
