"""Training that limits a backdoor to its own trigger: what else leads to the target is sought and trained away.

Paper: Ya, Li, Dai, Wang, Jiang, Xia, "Towards Faithful XAI Evaluation via Generalization-Limited Backdoor Watermark",
ICLR 2024, section 4.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sidedoor.algorithms.inversion.forms import Replaced
from sidedoor.algorithms.inversion.mask_pattern import Inversion, Penalty, Recovered, Schedule, mask_norm
from sidedoor.algorithms.trigger_area import trigger_area
from sidedoor.attacks.strategies.base import TrainingStrategy
from sidedoor.backdoor.base import AttackerRun
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.data.base import Dataset, Subset
from sidedoor.engine import Objective, Run
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door, Goal
from sidedoor.method import Count, NonNegative, Positive, Share
from sidedoor.tasks.task import Supervised, Task
from sidedoor.triggers.base import stamp
from sidedoor.types import Batch, Build, Images

Area = Bool[Tensor, "h w"]
Search = Callable[[nn.Module, Area, Run], Recovered]
"""What finds a trigger that leads to the target: (model, pixels of the true trigger, run) -> one mask and pattern."""
RAISING, LOWERING = 1.5, 1 / 0.618
"""Factor and divisor of the cost; the divisor is the release's, for triggers that are too weak."""
LARGEST = 4.0
"""A trigger this many times as large as the true one says nothing of what that one generalises to."""


@dataclass(frozen=True)
class GeneralizationLimited(TrainingStrategy, ABC):
    """Plant a backdoor, then train on with images that carry reversed triggers and their true labels.

    Args:
        epochs: of the second phase, each against a trigger of its own.
        lr: of the second phase.
        trigger_weight: of the loss of images with the true trigger, towards the target.
        limit_weight: of the loss of images with the reversed trigger, towards their true labels.
        inner_epochs: of each reversal.
        samples: images of each reversal; `inner_lr`, its learning rate.
        success: share of these images that a reversed trigger must lead to the target.
    """

    goals: ClassVar[tuple[type[Goal], ...]] = (AllToOne,)
    because: ClassVar[str] = "it limits what leads to the one target"
    origins: ClassVar[dict[str, str]] = TrainingStrategy.origins | {
        "epochs": "release: 10 to 30", "lr": "release: 0.01", "trigger_weight": "release: 1, or 0.03",
        "limit_weight": "release: 1, or 0.03", "inner_epochs": "release: 10", "samples": "ours: 500, for time",
        "inner_lr": "release: 0.1", "success": "ours: most images",
    }
    quick: ClassVar[dict[str, Any]] = {"epochs": 2, "inner_epochs": 2, "samples": 32}

    epochs: Count = 10
    lr: Positive = 0.01
    trigger_weight: NonNegative = 1.0
    limit_weight: NonNegative = 1.0
    inner_epochs: Count = 10
    samples: Count = 500
    inner_lr: Positive = 0.1
    success: Share = 0.8

    @abstractmethod
    def search(self, data: Dataset, target: int) -> Search:
        """How the trigger of each epoch is found, by images of other classes than the target."""

    @final
    def train_on(self, poisoned: PoisonedDataset, data: Dataset, task: Task, build: Build,
                 run: AttackerRun) -> nn.Module:
        """The trained model.

        Raises:
            NotApplicable: the trigger covers the image, so that there is nothing to limit it to.
        """
        door = poisoned.doors[0]
        first = data.fetch(torch.arange(1))
        area = trigger_area(door.trigger, first.x, first.index, data.space)[0]
        others = Subset(data, torch.nonzero(door.goal.eligible(task, data.targets))[:, 0])
        model = run.fit(run.build(build), poisoned, Supervised(task), name="victim")
        target = int(door.goal.target(task, data.targets[:1], torch.zeros(1, dtype=torch.int64)))
        objective = _Limited(task, door, data, area, self.search(others, target), self)
        recipe = replace(run.recipe, epochs=self.epochs, lr=self.lr, schedule="constant", patience=0)
        return run.fit(model, data, objective, name="limited", recipe=recipe)

    def inversion(self, size: int, penalty: Penalty = mask_norm, forbidden: Area | None = None) -> Inversion:
        """A reversal whose cost follows success from epoch to epoch, in place of restarts with other costs.

        Args:
            size: of the true trigger in pixels, by which the release divides the cost.
        """
        schedule = Schedule(0.009 / size, RAISING, LOWERING, self.success, patience=1, stopping=self.inner_epochs)
        return Inversion((penalty,), schedule, self.inner_epochs, self.samples, 32, self.inner_lr, forbidden=forbidden)


def overlap(mask: Float[Tensor, "1 h w"], area: Area) -> float:
    """Share of a mask that lies on an area."""
    return (mask[0][area].sum() / mask.sum().clamp(min=1e-12)).item()


class _Limited(Objective):
    """The losses of a batch, of its eligible images with the trigger, and of all images with a reversed one.

    All three go through the network in one pass: in several, batch normalisation would tell them apart.
    """

    mask: Tensor
    pattern: Tensor
    known: Tensor

    def __init__(self, task: Task, door: Door, data: Dataset, area: Area, search: Search,
                 method: GeneralizationLimited):
        super().__init__()
        self.task, self.door, self.space, self.area = task, door, data.space, area
        self.search, self.method = search, method
        self.trigger = door.trigger
        channels, height, width = data.shape
        self.register_buffer("mask", torch.zeros(1, 1, 1, height, width))
        self.register_buffer("pattern", torch.zeros(1, 1, channels, height, width))
        self.register_buffer("known", torch.zeros(()))

    def start(self, model: nn.Module, run: Run) -> None:
        self.run = run
        self.reverse(model, 0)

    def end_epoch(self, model: nn.Module, epoch: int) -> bool:
        if epoch + 1 < self.method.epochs:
            self.reverse(model, epoch + 1)
        return False

    def reverse(self, model: nn.Module, epoch: int) -> None:
        """Find the trigger of an epoch; none where it would have to be much larger than the true one."""
        found = self.search(model, self.area, self.run.within(f"reversal-{epoch}"))
        small = found.norm.item() <= LARGEST * self.area.sum().item()
        self.known.fill_(float(bool(found.success.all()) and small))
        self.mask.copy_(found.mask[:, None])
        self.pattern.copy_(found.pattern[:, None])

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        rows = self.door.goal.eligible(self.task, batch.y)
        parts = [(1.0, batch)]
        if rows.any():
            x, y, index = (each[rows] for each in batch)
            parts.append((self.method.trigger_weight, Batch(stamp(self.trigger, x, index, self.space),
                                                            self.door.goal.target(self.task, y, index), index)))
        if self.known:
            parts.append((self.method.limit_weight, batch._replace(x=self.reversed(batch.x))))
        whole = Batch(*map(torch.cat, zip(*(part for _, part in parts), strict=True)))
        losses = torch.split(self.task.loss(model, whole), [len(part.y) for _, part in parts])
        return torch.stack([weight * loss.mean() for (weight, _), loss in zip(parts, losses, strict=True)]).sum()[None]

    def reversed(self, x: Images) -> Images:
        """Images with the reversed trigger."""
        return Replaced().stamped(x, self.mask, self.pattern, self.space)[0]
