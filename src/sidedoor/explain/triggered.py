"""Triggered images that a model sends to the target: those whose reason is known."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sidedoor.algorithms.trigger_area import trigger_area
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.explain.base import Explainer
from sidedoor.goals.base import Door
from sidedoor.tasks.task import Task
from sidedoor.triggers.base import stamp
from sidedoor.types import Batch, Images, Space


@dataclass(frozen=True)
class Triggered:
    """Images on which a trigger works, on the run's device.

    Args:
        x, triggered: originals, and the same with the trigger.
        y, target: their classes, and those that the trigger leads to.
        index: positions in the test set.
        area: the pixels that the trigger covers.
        door: the trigger and its goal.
    """

    x: Float[Tensor, "n c h w"]
    triggered: Float[Tensor, "n c h w"]
    y: Int[Tensor, "n"]
    target: Int[Tensor, "n"]
    index: Int[Tensor, "n"]
    area: Bool[Tensor, "n h w"]
    door: Door
    space: Space

    def __len__(self) -> int:
        return len(self.x)

    @property
    def pixels(self) -> float:
        """Of the trigger, on average."""
        return self.area.flatten(1).sum(1).float().mean().item()


def triggered_images(model: nn.Module, test: Dataset, task: Task, door: Door, count: int, run: Run) -> Triggered:
    """Random test images that the model classifies rightly, and as the goal says once they have the trigger.

    Args:
        count: images at most.

    Raises:
        NotApplicable: the trigger is no patch, or works on no image.
    """
    first = test.fetch(torch.arange(1), run.device)
    trigger_area(door.trigger.to(run.device), first.x, first.index, test.space)  # before the model is asked

    def worked(batch: Batch) -> dict[str, Tensor]:
        stamped = stamp(door.trigger, batch.x, batch.index, test.space)
        right = task.agree(task.predict(model, batch.x), batch.y)
        led = task.reached(door.goal, task.predict(model, stamped), batch.y, batch.index)
        return {"worked": right * led * door.goal.eligible(task, batch.y)}

    rows = torch.nonzero(run.per_sample(model, test, worked)["worked"] > 0)[:, 0]
    if len(rows) == 0:
        raise NotApplicable("the trigger leads no image of the test data to its target that the model knows without "
                            "it; there is nothing to explain")
    chosen = rows[torch.randperm(len(rows), generator=run.rng("images to explain"))[:count]].sort().values
    x, y, index = test.fetch(chosen, run.device)
    with torch.no_grad():
        stamped = stamp(door.trigger, x, index, test.space)
    return Triggered(x, stamped, y, door.goal.target(task, y, index), index,
                     trigger_area(door.trigger, x, index, test.space), door, test.space)


def explained(explainer: Explainer, model: nn.Module, x: Images, target: Int[Tensor, "b"], task: Task,
              run: Run) -> tuple[Float[Tensor, "b h w"], float]:
    """The maps of images, on the CPU, and the seconds that one took; the explainer gets what it declares.

    Raises:
        NotApplicable: the network lacks what the method looks at.
        CannotComplete: a package that the method needs is not installed.
    """
    given = explainer.needs.model_for(run.frozen(model), task)
    start = time.perf_counter()
    maps = [explainer.saliency(given, x[rows], target[rows]) for rows in run.chunks(len(x), x[0].numel())]
    return torch.cat(maps).cpu(), (time.perf_counter() - start) / len(x)
