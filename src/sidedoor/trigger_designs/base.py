"""What every trigger design is: hyper-parameters, and one verb that makes a trigger from what the attacker has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.base import Goal
from sidedoor.method import Method
from sidedoor.tasks.task import Task
from sidedoor.triggers.base import Trigger

_FIRST = torch.zeros(1, dtype=torch.int64)


@dataclass(frozen=True)
class Setting:
    """What an attacker has when the trigger is made.

    Args:
        train: the task's training data: `fetch` gives inputs, targets and positions.
        goal: what triggered inputs are to lead to.
        model: gives the clean network, trained in the first call; it must not be changed.
        run: for random streams and device.
    """

    train: Dataset
    task: Task
    goal: Goal
    model: Callable[[], nn.Module]
    run: Run

    def target(self) -> Float[Tensor, "1 c h w"]:
        """The backdoor target of the first training sample, in the size of inputs: that of all samples if it is one
        image.
        """
        _, y, index = self.train.fetch(_FIRST, self.run.device)
        target = self.goal.target(self.task, y, index)
        return functional.interpolate(target, size=self.train.shape[1:], mode="bilinear", antialias=True)


@dataclass(frozen=True)
class Design(Method, ABC):
    """How an attacker makes a trigger."""

    @abstractmethod
    def make(self, setting: Setting) -> Trigger:
        """The trigger, on the run's device."""


@dataclass(frozen=True)
class AttributeEditor(Design, ABC):
    """A design whose trigger edits an attribute that every image has, such as its style, its hue or its strokes.

    BAAT takes these alone: nothing is added to an image, and the edited one might have been taken so.
    """
