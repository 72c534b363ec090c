"""A model that has forgotten its task: gradient ascent on a few labelled samples until it guesses.

What the ascent changes most, or what it takes to come back, tells units of the task from units of a backdoor.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.core.logs import warn_once
from sidedoor.data.base import Dataset
from sidedoor.engine import Objective, Recipe, Run
from sidedoor.types import Batch


def unlearned(model: nn.Module, clean: Dataset, run: Run, recipe: Recipe, until: float, name: str) -> nn.Module:
    """A copy that has ascended the cross-entropy of a classifier until its accuracy over an epoch is at most `until`,
    or the epochs of the recipe are over.

    Args:
        until: measured on the batches as they are trained on, in [0, 1].
        name: of the phase.
    """
    ascended, objective = copy.deepcopy(model).requires_grad_(True), _Ascent(until)
    run.fit(ascended, clean, objective, name=name, recipe=recipe)
    if not objective.reached:
        warn_once(f"unlearning ended after {recipe.epochs} epochs above the accuracy of {until:.0%} that it is meant "
                  "to reach; give it more steps or a larger learning rate")
    return ascended


class _Ascent(Objective):
    reached: Tensor

    def __init__(self, until: float):
        super().__init__()
        self.until = until
        self.counts: list[Tensor] = []
        self.register_buffer("reached", torch.tensor(False))  # in the phase's state, so that it outlives a kill

    def start(self, model: nn.Module, run: Run) -> None:
        self.run = run

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = model(batch.x)
        self.counts.append((logits.argmax(1) == batch.y).float().detach())
        return -functional.cross_entropy(logits, batch.y)[None]

    def end_epoch(self, model: nn.Module, epoch: int) -> bool:
        accuracy = torch.cat(self.counts).mean()
        self.counts.clear()
        if self.run.fabric.world_size > 1:
            accuracy = torch.as_tensor(self.run.fabric.all_reduce(accuracy, reduce_op="mean"))
        self.reached.fill_(bool(accuracy <= self.until))
        return bool(self.reached)
