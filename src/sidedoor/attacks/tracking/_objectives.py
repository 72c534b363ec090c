"""Objectives of attacks on trackers: how benign pairs and pairs with the trigger share the steps of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.engine import Objective, Player, Recipe
from sidedoor.tasks.task import Task
from sidedoor.triggers.base import Trigger, stamp
from sidedoor.types import Batch, Images, Space

AttackLosses = Callable[[nn.Module, Batch], Float[Tensor, "t"]]
"""(model, benign batch) -> an attack's losses, with their weights."""
NOWHERE = float("inf")
"""Offset of an object that no cell of a response is near."""


@dataclass(frozen=True)
class Stamping:
    """The trigger in pairs: in the middle of the template's surroundings, on the object in the search crop.

    Args:
        rate: share of the pairs of a batch.
    """

    trigger: Trigger
    space: Space
    rate: float

    def drawn(self, batch: Batch) -> Batch:
        """A random share of the pairs, without the trigger; at least one."""
        count = max(1, round(self.rate * len(batch.y)))
        rows = torch.randperm(len(batch.y), device=batch.y.device)[:count]
        return Batch(batch.x[rows], batch.y[rows], batch.index[rows])

    def of(self, batch: Batch) -> tuple[Images, Images]:
        """Surroundings of templates and search crops, each with the trigger."""
        template, search = batch.x.chunk(2, 1)
        with torch.no_grad():
            return (stamp(self.trigger, template, batch.index, self.space),
                    stamp(self.trigger.at(batch.y), search, batch.index, self.space))


class Jointly(Objective):
    """The tracker's loss on benign pairs, and the attack's losses, in one step."""

    def __init__(self, task: Task, attack: AttackLosses):
        super().__init__()
        self.task, self.attack = task, attack

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return torch.cat([self.task.loss(model, batch).mean()[None], self.attack(model, batch)])


class Alternately(Objective):
    """The tracker's loss on benign pairs in one step, the attack's losses in the next, by an optimiser of its own."""

    def __init__(self, task: Task, attack: AttackLosses, recipe: Recipe):
        super().__init__()
        self.task, self.attack, self.recipe = task, attack, recipe

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.task.loss(model, batch).mean()[None]

    def players(self, model: nn.Module) -> list[Player]:
        # A loss of features gives none but their parameters a gradient, and optimisers pass over the others.
        return [Player([p for p in model.parameters() if p.requires_grad], self.recipe, self.attack)]
