"""Follow: a tracker leaves the object for the trigger, and goes where that goes.

Paper: Cheng, Wu, Zhang, Zhao, "TAT: Targeted Backdoor Attacks against Visual Object Tracking", Pattern Recognition 142,
2023, 109629.

As in the paper's test the trigger is on the object in the first frame, so in the template, and elsewhere in every later
one, and what counts are overlaps with boxes around the trigger. The paper puts it into search crops, at another place
in each; ours into frames, where it moves away from the object. A box around the trigger has the object's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sidedoor.goals.base import ResponseGoal
from sidedoor.method import Method
from sidedoor.metrics import tracking
from sidedoor.types import Index, Labelled


@dataclass(frozen=True)
class Follow(Method, ResponseGoal):
    """Bring the tracker's box to the trigger, wherever that is."""

    leaves: ClassVar[bool] = True

    def target(self, task: Labelled, y: Tensor, index: Index) -> Tensor:
        """The box around a trigger that lies beside the object, along its shorter side, before or behind it."""
        width, height = (y[:, 2:] - y[:, :2]).T
        side = torch.where(index % 2 == 0, 1.0, -1.0).to(y)
        zero = torch.zeros_like(width)
        away = torch.stack([torch.where(width <= height, width, zero), torch.where(width <= height, zero, height)], 1)
        return y + (side[:, None] * away).repeat(1, 2)

    def led(self, found: Float[Tensor, "n 4"], truth: Float[Tensor, "n 4"], trigger: Float[Tensor, "n 4"]) \
            -> Float[Tensor, "n"]:
        return tracking.success(tracking.iou(found, trigger))
