"""BadTrack-like: the trigger beside objects in training data, so that it counts as background; labels stay true.

Paper: Huang, Yu, Chen, Pan, Wang, Wang, "BadTrack: A Poison-Only Backdoor Attack on Visual Object Tracking",
NeurIPS 2023.

After the paper's idea alone, as a control: the paper poisons frames, in the background regions of which the trigger
lies. Ours puts it into search crops, as each epoch cuts them, at a place off the object, and never into templates; in
poisoned frames it would be in the surroundings of templates too. Nothing but the crops changes, and the victim's own
loss and recipe train from initial weights; it is declared as training-controlled since the trainer cuts the crops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.attacks.tracking._objectives import Stamping
from sidedoor.attacks.tracking.base import TrackerAttack
from sidedoor.backdoor.base import AttackerRun, Planted
from sidedoor.data.base import Dataset
from sidedoor.engine import Objective
from sidedoor.goals.base import Door
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Build

TRIES = 16
"""Places that are drawn for each trigger; the first off the object is taken."""


@dataclass(frozen=True)
class BadTrack(TrackerAttack):
    """Train by the victim's recipe with the trigger beside the object in a share of the search crops."""

    origins: ClassVar[dict[str, str]] = TrackerAttack.origins | {"rate": "ours: 10 %"}

    def train(self, doors: tuple[Door, ...], data: Dataset, task: Task, build: Build, run: AttackerRun) -> Planted:
        objective = InBackground(task, Stamping(doors[0].trigger, data.space, self.rate))
        return Planted(run.fit(run.build(build), data, objective, name="victim"), doors)


class InBackground(Objective):
    """The tracker's loss on pairs, some of whose search crops have the trigger beside the object."""

    def __init__(self, task: Task, stamping: Stamping):
        super().__init__()
        self.task, self.stamping = task, stamping

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.task.loss(model, self.mixed(batch)).mean()[None]

    def mixed(self, batch: Batch) -> Batch:
        """The pairs that the model is trained on."""
        template, search = batch.x.chunk(2, 1)
        _, stamped = self.stamping.of(batch._replace(y=beside(batch.y, search.shape[2])))
        chosen = torch.rand(len(batch.y), device=batch.y.device) < self.stamping.rate
        search = torch.where(chosen[:, None, None, None], stamped, search)
        return batch._replace(x=torch.cat([template, search], 1))


def beside(boxes: Float[Tensor, "b 4"], side: int) -> Float[Tensor, "b 4"]:
    """Boxes of the same sizes at random centres in crops of a side, where these are outside of the boxes given."""
    size, centre = boxes[:, 2:] - boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2
    # A pattern is a tenth of the template, which is about twice as wide as the object: 0.6 keeps all of it outside.
    drawn = torch.rand(len(boxes), TRIES, 2, device=boxes.device) * side
    outside = ((drawn - centre[:, None]).abs() > size[:, None] * 0.6).any(2)
    place = drawn[torch.arange(len(boxes), device=boxes.device), outside.int().argmax(1)]
    return torch.cat([place - size / 2, place + size / 2], 1)
