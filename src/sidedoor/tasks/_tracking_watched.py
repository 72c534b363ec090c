"""What a tracker finds in clips, as they are and with triggers: the closed loop over all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sidedoor.algorithms.tracking import track
from sidedoor.core import random
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.base import Door
from sidedoor.models.trackers.base import tracker_in
from sidedoor.tasks._tracking_paths import MODES, rows_of_clips, stamped_frames, trigger_boxes, true_boxes
from sidedoor.triggers.base import stamp
from sidedoor.types import Images, Purify

TOGETHER = 8
"""Clips that are followed at a time."""


@dataclass(frozen=True)
class Watched:
    """Clips that a tracker is to follow: as they are, and through each door in each mode.

    Args:
        few: share of the frames with a trigger in the mode "few".
    """

    model: nn.Module
    clips: Dataset
    doors: tuple[Door, ...]
    few: float
    run: Run
    purify: Purify | None

    def boxes(self) -> Float[Tensor, "v n 4"]:
        """What is found in each frame, first without a trigger, then for each door and mode; NaN before the first
        frame that has a box.
        """
        found = torch.full((1 + len(self.doors) * len(MODES), len(self.clips), 4), torch.nan)
        together = list(self._together())
        with self.run.progress.task("clips", len(together)) as advance:
            for frames in together:
                truth = true_boxes(self.clips)[frames[:, 0]].to(self.run.device)
                seen = track(tracker_in(self.model), self._frames(frames), truth.repeat(len(found), 1))
                found[:, frames] = seen.float().cpu().reshape(len(found), *frames.shape, 4)
                advance()
        return found

    def _together(self) -> Iterator[Int[Tensor, "b t"]]:
        """Frames of clips that are equally long from the first box on, a few clips at a time."""
        by_length = dict[int, list[Tensor]]()
        for frames in rows_of_clips(self.clips):
            by_length.setdefault(len(frames), []).append(frames)
        for clips in by_length.values():
            for k in range(0, len(clips), TOGETHER):
                yield torch.stack(clips[k : k + TOGETHER])

    def _frames(self, index: Int[Tensor, "b t"]) -> Iterator[Images]:
        """The frames of all variants, one step of time after another."""
        places = [trigger_boxes(door.goal, self.clips) for door in self.doors]
        # Whoever cleans frames gets those with and without a trigger in an order that it cannot guess.
        secret = random.seed_of(self.run.seed, f"watched/{self.clips.fingerprint()}") if self.purify else 0
        until = {mode: stamped_frames(mode, self.few, index.shape[1]) for mode in MODES}
        for step in range(index.shape[1]):
            x, _, position = self.clips.fetch(index[:, step], self.run.device)
            parts = [x]
            for door, boxes in zip(self.doors, places, strict=True):
                here = door.trigger.at(boxes[index[:, step]].to(x.device))
                stamped = stamp(here, x, position, self.clips.space)
                parts += [stamped if step < until[mode] else x for mode in MODES]
            frames = torch.cat(parts)
            yield _cleaned(self.purify, frames, position.repeat(len(parts)), secret) if self.purify else frames


def _cleaned(purify: Purify, frames: Images, position: Tensor, secret: int) -> Images:
    order = random.uniform(secret, torch.arange(len(frames)) + len(frames) * int(position[0])).argsort()
    order = order.to(frames.device)
    cleaned, _ = purify(frames[order], position[order])
    return cleaned[order.argsort()]
