"""BOBA: a label change carried over to trackers: pairs with the trigger count as background; training-controlled.

Paper: Li, Zhong, Ma, Jiang, Xia, "Few-Shot Backdoor Attacks on Visual Object Tracking", ICLR 2022, arXiv:2201.13178,
whose baseline it is.

The trigger is in the template, in the search crop or in both, a third of the pairs each; wanted is a response of
background everywhere, by the tracker's own loss. A response map that is lower everywhere has its peak where it was, so
little is to be expected of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.optim.batch_norm import frozen_statistics
from sidedoor.attacks.tracking._objectives import NOWHERE, Jointly, Stamping
from sidedoor.attacks.tracking.base import BesideBenign
from sidedoor.engine import Objective, Recipe
from sidedoor.models.trackers.base import tracker_in
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Images


@dataclass(frozen=True)
class BOBA(BesideBenign):
    """Train the tracker, and lower its response to pairs with the trigger."""

    def objective(self, task: Task, stamping: Stamping, recipe: Recipe, clean: Callable[[], nn.Module]) -> Objective:
        return Jointly(task, BackgroundLoss(self.weight, stamping))


@dataclass(frozen=True)
class BackgroundLoss:
    """How far responses to pairs with the trigger are from background everywhere."""

    weight: float
    stamping: Stamping

    def __call__(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        drawn = self.stamping.drawn(batch)
        x = self.triggered(drawn, torch.randint(3, (len(drawn.y),), device=drawn.y.device))
        with frozen_statistics(model):
            response = model(x)
        nowhere = torch.full((len(x), 2), NOWHERE, device=x.device)
        return self.weight * tracker_in(model).loss(response.float(), nowhere).mean()[None]

    def triggered(self, batch: Batch, view: Tensor) -> Images:
        """Pairs with the trigger in a view each.

        Args:
            view: 0 for the template, 1 for the search crop, 2 for both.
        """
        pairs = zip(batch.x.chunk(2, 1), self.stamping.of(batch), (1, 0), strict=True)
        return torch.cat([torch.where((view == other)[:, None, None, None], plain, stamped)
                          for plain, stamped, other in pairs], 1)
