"""A strip of frames of one held-out clip, with the boxes of a clean and an attacked tracker: arrays for reports."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.tracking import track
from sidedoor.data.base import Dataset, stored
from sidedoor.engine import Run
from sidedoor.goals.base import Door
from sidedoor.image.geometry import like
from sidedoor.models.trackers.base import tracker_in
from sidedoor.tasks._tracking_pairs import Pairs
from sidedoor.tasks._tracking_paths import leaves, trigger_boxes, true_boxes
from sidedoor.triggers.base import stamp
from sidedoor.types import PHOTO, Images

SHOWN, FOLLOWED, SIDE = 6, 60, 128
"""Frames of the strip, of the clip from which they are taken evenly, and pixels of their longer side at most."""


def strip(data: Dataset, doors: Sequence[Door], clean: nn.Module, attacked: nn.Module, run: Run) \
        -> dict[str, np.ndarray]:
    """Frames as they are and with the trigger, with boxes, of the first clip. The trigger is on the object in the first
    frame; if it leaves it afterwards, it is in all.

    Returns:
        strip_frames (2, k, c, h, w), strip_boxes (2, k, 3, 4): of the truth, the clean and the attacked tracker, and
        strip_places (k,), the frames' numbers in the clip; nothing where there is no trigger or no clip.
    """
    if not doors or not isinstance(data, Pairs):
        return {}
    rows = torch.nonzero(data.groups == data.groups[0])[:, 0][:FOLLOWED] if data.groups is not None else data.frames
    frames, _, position = data.clips.fetch(data.frames[rows], run.device)
    truth, places = (boxes[data.frames[rows]].to(run.device)
                     for boxes in (true_boxes(data.clips), trigger_boxes(doors[0].goal, data.clips)))
    count = len(rows) if leaves(doors[0].goal) else 1
    shown = torch.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).round().long()
    with torch.no_grad(), run.autocast():
        stamped = stamp(doors[0].trigger.at(places[:count]), frames[:count], position[:count], data.clips.space)
        found = [_strip(x, truth, (clean, attacked), shown) for x in (frames, torch.cat([stamped, frames[count:]]))]
    pictures, boxes = (torch.stack(part).cpu() for part in zip(*found, strict=True))
    small = stored(pictures.flatten(0, 1).clamp(0, 1), PHOTO).view(pictures.shape)
    return {"strip_frames": small.numpy(), "strip_boxes": boxes.float().numpy(), "strip_places": shown.numpy() + 1}


def _strip(x: Images, truth: Float[Tensor, "t 4"], models: Sequence[nn.Module], shown: Tensor) \
        -> tuple[Images, Float[Tensor, "k 3 4"]]:
    """The frames that are shown, reduced, and boxes in their pixels."""
    boxes = torch.stack([truth, *(track(tracker_in(model.eval()), x[:, None], truth[:1])[0] for model in models)], 1)
    channels, height, width = x.shape[1:]
    factor = min(1.0, SIDE / max(height, width))
    size = (channels, max(1, round(height * factor)), max(1, round(width * factor)))
    return like(x[shown.to(x.device)], size), boxes[shown.to(x.device)] * factor
