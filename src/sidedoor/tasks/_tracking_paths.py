"""When and where the trigger is in a clip: on the object, or on a path of its own that starts there.

The path is the evaluator's and the same for every attack: the trigger moves away from the object by a quarter of its
size a frame, to the side where there is most room, and stays beside it at one and a half sizes. Each step is small
enough for a tracker that follows, and at the end the two boxes have nothing in common.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sidedoor.data.base import Dataset
from sidedoor.goals.base import Goal, ResponseGoal

Mode = Literal["one", "few", "all"]
MODES: tuple[Mode, ...] = ("one", "few", "all")
STEP, AWAY = 0.25, 1.5
"""How far the trigger moves away from the object in a frame, and at most, in sizes of the object."""
SIDES = torch.tensor([[-1.0, 0], [0, -1], [1, 0], [0, 1]])


def stamped_frames(mode: Mode, few: float, count: int) -> int:
    """How many of a clip's frames carry the trigger, from the first on.

    Args:
        few: their share in the mode "few"; at least one does.
    """
    return {"one": 1, "few": max(1, round(few * count)), "all": count}[mode]


def true_boxes(clips: Dataset) -> Float[Tensor, "n 4"]:
    """Of objects, NaN where there is none."""
    assert clips.boxes is not None
    return torch.where(clips.boxes[:, 0, :1] >= 0, clips.boxes[:, 0, 1:], torch.nan)


def rows_of_clips(clips: Dataset) -> Iterator[Int[Tensor, "t"]]:
    """The frames of each clip from the first that has a box on; none of a clip without any."""
    truth = true_boxes(clips)
    assert clips.groups is not None
    for clip in torch.unique(clips.groups):
        frames = torch.nonzero(clips.groups == clip)[:, 0]
        seen = torch.nonzero(truth[frames].isfinite().all(1))[:, 0]
        if len(seen):
            yield frames[seen[0] :]


def leaves(goal: Goal) -> bool:
    """Whether the trigger leaves the object."""
    assert isinstance(goal, ResponseGoal)
    return goal.leaves


def trigger_boxes(goal: Goal, clips: Dataset) -> Float[Tensor, "n 4"]:
    """Boxes of the object's size around the trigger, NaN where the object has none."""
    found, (_, height, width) = true_boxes(clips), clips.shape
    if leaves(goal):
        for frames in rows_of_clips(clips):
            found[frames] = leaving(found[frames], height, width)
    return found


def leaving(boxes: Float[Tensor, "t 4"], height: int, width: int) -> Float[Tensor, "t 4"]:
    """The path away from the object, within frames of a height and width.

    Args:
        boxes: of the object, of which the first is finite.
    """
    limit = torch.tensor([width, height], device=boxes.device)
    size, centre = boxes[:, 2:] - boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2
    room = torch.cat([centre[0], limit - centre[0]]) / size[0].repeat(2)
    side = SIDES.to(boxes)[room.argmax()]
    away = (STEP * torch.arange(len(boxes), device=boxes.device)).clamp(max=AWAY)
    moved = torch.minimum(torch.maximum(centre + away[:, None] * size * side, size / 2), limit - size / 2)
    return torch.cat([boxes[:1], torch.cat([moved - size / 2, moved + size / 2], 1)[1:]])
