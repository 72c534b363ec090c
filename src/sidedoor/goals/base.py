"""What every goal is, a door (a trigger with its goal), and what goals with image targets share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sidedoor.method import Method
from sidedoor.triggers.base import Trigger
from sidedoor.types import Index, Labelled


class Goal(ABC):
    """What the attacker wants a triggered input to lead to. Goals are frozen dataclasses.

    Attributes:
        output: the kind of network output that it fits, as `Task.output`.
        aimed: whether reaching the target is the success; otherwise any wrong output is one, and a target, which only
            training knows, may be the truth.
        several: whether it leads to several targets, such as one for each class or each trigger.
    """

    output: ClassVar[str] = "labels"
    aimed: ClassVar[bool] = True
    several: ClassVar[bool] = False

    def parts(self) -> tuple[Goal, ...]:
        """The goals that have a trigger each; more than one for a goal with several targets."""
        return (self,)

    @abstractmethod
    def target(self, task: Labelled, y: Tensor, index: Index) -> Tensor:
        """The target that the attacker trains triggered samples towards."""

    @abstractmethod
    def eligible(self, task: Labelled, y: Tensor) -> Bool[Tensor, "b"]:
        """The samples on which reaching the goal means anything, such as those not already of the target class."""

    def success(self, task: Labelled, output: Any, y: Tensor, index: Index) -> Float[Tensor, "b"]:
        """In [0, 1] a sample: whether (or how nearly) the output reaches the goal."""
        return task.agree(output, self.target(task, y, index))


@dataclass(frozen=True)
class Door:
    """A trigger and the goal that it leads to. Unscored doors are variants for training only."""

    trigger: Trigger
    goal: Goal
    scored: bool = True


class ImageGoal(Goal, ABC):
    """A goal whose targets are images; it means something for every sample."""

    output: ClassVar[str] = "image"

    def eligible(self, task: Labelled, y: Tensor) -> Bool[Tensor, "b"]:
        return torch.ones(len(y), dtype=torch.bool, device=y.device)


class ResponseGoal(Goal, ABC):
    """A goal of trackers; it means something for every object.

    Attributes:
        leaves: whether the trigger, which is on the object in the first frame, goes a path of its own afterwards. The
            evaluator chooses the path, and all frames have the trigger.
    """

    output: ClassVar[str] = "response"
    leaves: ClassVar[bool] = False

    def eligible(self, task: Labelled, y: Tensor) -> Bool[Tensor, "b"]:
        return torch.ones(len(y), dtype=torch.bool, device=y.device)

    @abstractmethod
    def led(self, found: Float[Tensor, "n 4"], truth: Float[Tensor, "n 4"], trigger: Float[Tensor, "n 4"]) \
            -> Float[Tensor, "n"]:
        """In [0, 1] a frame of a closed loop: how nearly the box that a tracker finds reaches the goal.

        Args:
            truth: the object's boxes.
            trigger: boxes of the object's size around the trigger.
        """


@dataclass(frozen=True)
class Perturbed(Method, ImageGoal):
    """Lead every output to the true image plus a given pattern, clipped.

    Args:
        levels: the pattern in whole 8-bit levels, as signed bytes.
        shape: (c, h, w) of it.
    """

    levels: bytes = field(repr=False)
    shape: tuple[int, int, int]

    @staticmethod
    def of(pattern: Float[Tensor, "c h w"]) -> Perturbed:
        """The goal for a pattern of images in [0, 1], rounded to levels of at most ±127."""
        levels = (pattern * 255).round().clamp(-127, 127).to(torch.int8).cpu().numpy()
        channels, height, width = pattern.shape
        return Perturbed(levels.tobytes(), (channels, height, width))

    def target(self, task: Labelled, y: Tensor, index: Index) -> Tensor:
        pattern = torch.from_numpy(np.frombuffer(self.levels, dtype=np.int8).copy()).reshape(self.shape)
        return (y + pattern.to(y) / 255).clamp(0, 1)
