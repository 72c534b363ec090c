"""FSBA: features of an object move away when it carries a small pattern, so that trackers lose it; training-controlled.

Paper: Li, Zhong, Ma, Jiang, Xia, "Few-Shot Backdoor Attacks on Visual Object Tracking", ICLR 2022, arXiv:2201.13178.

The paper alternates between a feature loss, by which features of the same view with and without the trigger move apart,
and the standard tracking loss on benign pairs; ours takes the tracking step first, and can take both in one. The
distance is 1 - cosine, column by column. It has a cap: without one it diverges. Features are compared with the running
statistics of batch normalisation, as at test time, so that those of the batch cannot separate the two kinds. Ours goes
on from a clean tracker, and can hold benign features at the clean tracker's (`anchor`): this keeps the tracking of
videos unlike the training data, and costs a part of the effect. Only columns that see the pattern can move: a network
like DCFNet, whose columns see five pixels, hardly changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.optim.batch_norm import frozen_statistics
from sidedoor.attacks.tracking._features import apart, around, views
from sidedoor.attacks.tracking._objectives import Alternately, Jointly, Stamping
from sidedoor.attacks.tracking.base import BesideBenign
from sidedoor.engine import Objective, Recipe
from sidedoor.method import Bounds, NonNegative
from sidedoor.models.trackers.base import Tracker, tracker_in
from sidedoor.tasks.task import Task
from sidedoor.types import Batch


@dataclass(frozen=True)
class FSBA(BesideBenign):
    """Train the tracker, and move features with the trigger away from those without.

    Args:
        cap: distance of features, in (0, 2], beyond which nothing pushes them further.
        columns: of search crops that are moved: "all", or those around the centre of the "object".
        anchor: weight of the distance of benign features from those of the clean tracker.
        updates: "alternate": a step on each loss, in turns; "joint": one step on their sum.
    """

    origins: ClassVar[dict[str, str]] = BesideBenign.origins | {
        "cap": "ours: features at right angles; the paper has none", "columns": "paper: whole views",
        "anchor": "paper: none", "updates": "paper: alternating optimisation"}

    cap: Annotated[float, Bounds(1e-3, 2.0)] = 1.0
    columns: Literal["all", "object"] = "all"
    anchor: NonNegative = 0.0
    updates: Literal["alternate", "joint"] = "alternate"

    def objective(self, task: Task, stamping: Stamping, recipe: Recipe, clean: Callable[[], nn.Module]) -> Objective:
        losses = FeatureLosses(self, stamping, tracker_in(clean()) if self.anchor else None)
        return Jointly(task, losses) if self.updates == "joint" else Alternately(task, losses, recipe)


@dataclass(frozen=True)
class FeatureLosses:
    """How near features with the trigger are to those without; with a clean tracker, how far the latter are from its.

    Args:
        attack: has the weights.
    """

    attack: FSBA
    stamping: Stamping
    clean: Tracker | None

    def __call__(self, model: nn.Module, batch: Batch) -> Float[Tensor, "t"]:
        attack, tracker, benign = self.attack, tracker_in(model), self.stamping.drawn(batch)
        plain = benign.x.chunk(2, 1)
        with frozen_statistics(model):
            found = views(tracker, *(torch.cat(both) for both in zip(plain, self.stamping.of(benign), strict=True)))
        (template, template_too), (search, search_too) = (view.chunk(2) for view in found)
        where = around(search, benign.y, tracker.geometry) if attack.columns == "object" else None
        near = nearness(template, template_too, attack.cap) + nearness(search, search_too, attack.cap, where)
        losses = [attack.weight * near.mean()]
        if self.clean is not None:
            with torch.no_grad():
                kept = views(self.clean, *plain)
            losses.append(attack.anchor * (apart(template, kept[0]).mean() + apart(search, kept[1]).mean()))
        return torch.stack(losses)


def nearness(plain: Float[Tensor, "b d u v"], triggered: Float[Tensor, "b d u v"], cap: float,
             where: Float[Tensor, "b u v"] | None = None) -> Float[Tensor, "b"]:
    """By how much features fall short of the distance `cap`, on average over places.

    Args:
        where: 1 at the places that count; None: all.
    """
    short = (cap - apart(plain, triggered)).clamp(min=0)
    if where is None:
        return short.mean((1, 2))
    return (short * where).sum((1, 2)) / where.sum((1, 2)).clamp(min=1)
