"""Objectives of training-controlled attacks: how poisoned, noise and clean samples share a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sidedoor.engine import Objective, Player
from sidedoor.errors import ConfigError
from sidedoor.goals.base import Door
from sidedoor.multitask.base import Weighting
from sidedoor.tasks.task import Task
from sidedoor.triggers.base import Trigger, stamp
from sidedoor.types import Batch, Space, joined


def check_shares(**shares: float) -> None:
    """Two shares of one batch.

    Raises:
        ConfigError: they add up to more than 1.
    """
    if sum(shares.values()) > 1:
        given = " and ".join(f"{name} {share}" for name, share in shares.items())
        raise ConfigError(f"{given} given; expected at most 1 together")


class NoiseSamples(NamedTuple):
    """Samples that keep their labels although they carry something like the trigger.

    Args:
        rate: share of all samples.
        make: (model, door, batch, mask of the batch) -> the trigger that stamps the rows of the mask.
    """

    rate: float
    make: Callable[[nn.Module, Door, Batch, Tensor], Trigger]


class OnlinePoisoning(Objective):
    """The task's loss on batches of attacked, noise and clean samples; several doors share the samples out.

    Args:
        rate: share of the eligible samples that is attacked.
    """

    def __init__(self, task: Task, doors: tuple[Door, ...], space: Space, rate: float,
                 noise: NoiseSamples | None = None):
        super().__init__()
        self.task, self.doors, self.space, self.rate, self.noise = task, doors, space, rate, noise
        self.triggers = nn.ModuleList(door.trigger for door in doors)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.task.loss(model, self.mixed(model, batch)).mean()[None]

    def mixed(self, model: nn.Module, batch: Batch) -> Batch:
        """The batch that the model is trained on."""
        x, y = batch.x.clone(), batch.y.clone()
        draw = torch.rand(len(y), device=y.device)
        chosen = torch.randint(len(self.doors), (len(y),), device=y.device)
        for k, door in enumerate(self.doors):
            attacked = (chosen == k) & (draw < self.rate) & door.goal.eligible(self.task, batch.y)
            x[attacked] = stamp(door.trigger, batch.x[attacked], batch.index[attacked], self.space)
            y[attacked] = door.goal.target(self.task, batch.y[attacked], batch.index[attacked])
            if self.noise:
                rows = (chosen == k) & (draw > 1 - self.noise.rate)
                alike = self.noise.make(model, door, batch, rows)
                x[rows] = stamp(alike, batch.x[rows], batch.index[rows], self.space)
        return Batch(x, y, batch.index)


class CleanAndPoisonedLoss(Objective):
    """Two losses of the task: on the clean batch and on the poisoned one.

    Both go through the network in one pass: in two, batch normalisation would separate them by their statistics.
    """

    def __init__(self, mixer: OnlinePoisoning, weighting: Weighting, player: Player | None = None):
        super().__init__(weighting.start(2))
        self.mixer, self.player = mixer, player

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        both = joined(batch, self.mixer.mixed(model, batch))
        return self.mixer.task.loss(model, both).reshape(2, -1).mean(1)

    def players(self, model: nn.Module) -> list[Player]:
        return [self.player] if self.player else []
