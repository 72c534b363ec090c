"""Pairs of crops of one clip, on which trackers train: a template's surroundings and a search crop."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from sidedoor.core import random
from sidedoor.data.base import Dataset, storage, stored, unit
from sidedoor.errors import ConfigError
from sidedoor.image.geometry import affine, cut_out
from sidedoor.models.trackers.base import Geometry
from sidedoor.types import PHOTO, Batch, Images

ROOM = 0.385
"""How much larger the kept crops are than search crops, so that these can be moved, turned and resized within."""
SHIFT, STRETCH, TURN, LIGHT = 0.126, 0.1, 0.1, 0.2
"""Most that an epoch moves a search crop along each axis, as a share of its side; changes its size and its brightness,
as logarithms; and turns it, in radians."""
APART = 100
"""The most frames between a template and its search crop."""
BATCH = 32


class Pairs(Dataset):
    """A row for each frame with a box: (2c, S, S), first the template's surroundings, then the frame's search crop, at
    one scale; the target is the object's box in the search crop, (left, top, right, bottom).

    Without an epoch the template is the clip's first frame and the object is at the centre of both. An epoch of
    training draws another frame of the clip for the template, moves, turns, resizes and lights the search crop, and
    mirrors both, by (epoch, position).

    Args:
        clips: frames with one box each (-1: none), of clips (`groups`) whose frames follow one another.
        geometry: of the tracker that they are for.

    Raises:
        ConfigError: a data set without clips, or without any box.
    """

    def __init__(self, clips: Dataset, geometry: Geometry, epoch: int | None = None):
        if clips.boxes is None or clips.boxes.shape[1] != 1 or clips.groups is None:
            raise ConfigError("a data set without clips given; tracking needs frames with one box each, as the sets "
                              "`moving` and `clips` have")
        self.clips, self.geometry, self._epoch = clips, geometry, epoch
        self.frames = torch.nonzero(clips.boxes[:, 0, 0] >= 0)[:, 0]
        if not len(self.frames):
            raise ConfigError("clips without any box given; a tracker needs the object's box at least in first frames")
        self._located = clips.boxes[self.frames, 0, 1:]
        self.shape = (2 * clips.shape[0], geometry.search, geometry.search)
        self.classes, self.space = clips.classes, PHOTO
        self.targets, self.groups = clips.targets[self.frames], clips.groups[self.frames]
        self._first, self._count = _runs(self.groups)
        self._kept: list[np.ndarray] = []

    @property
    def later(self) -> Bool[Tensor, "n"]:
        """Which rows are not the first of their clip."""
        return self._first != torch.arange(len(self))

    def rows(self, index: Int[Tensor, "b"]) -> Float[Tensor, "b c2 s s"]:
        return self.fetch(index).x

    def position(self, index: Int[Tensor, "b"]) -> Int[Tensor, "b"]:
        return self.clips.position(self.frames[index.cpu()].to(index.device))

    def fetch(self, index: Int[Tensor, "b"], device: torch.device | str = "cpu") -> Batch:
        index = index.cpu()
        position = self.position(index).to(device)
        if self._epoch is None:
            side = (self.geometry.search,) * 2
            parts = [unit(self._cut(rows, side), PHOTO).to(device) for rows in (self._first[index], index)]
            x, y = torch.cat(parts, 1), self._boxes(index, torch.zeros(len(index), 2), torch.ones(len(index)))
            return Batch(x, y.to(device), position)
        drawn = random.uniform(random.seed_of(0, f"pairs/{self._epoch}"), position.cpu(), 8)
        spread = (2 * drawn - 1).T
        start = torch.maximum(self._first[index], index - APART)
        end = torch.minimum(self._first[index] + self._count[index], index + APART + 1)
        other = start + (drawn[:, 0] * (end - start)).long().clamp(max=APART * 2)
        mirror, scale, shift = drawn[:, 1] < 0.5, (STRETCH * spread[2]).exp(), SHIFT * spread[3:5].T
        still = torch.zeros(len(index))
        template = self._moved(torch.minimum(other, end - 1), mirror, torch.ones(len(index)), still,
                               torch.zeros(len(index), 2), device)
        search = self._moved(index, mirror, scale, TURN * spread[5], shift, device)
        light = (LIGHT * spread[6]).exp().to(device)[:, None, None, None]
        x = torch.cat([template, (search * light).clamp(0, 1)], 1)
        return Batch(x, self._boxes(index, shift, scale).to(device), position)

    def at(self, epoch: int) -> Dataset:
        twin = Pairs(self.clips, self.geometry, epoch)
        twin._kept = self._kept
        return twin

    def fingerprint(self) -> str:
        return hashlib.sha256(f"pairs {self.clips.fingerprint()}{self.geometry}".encode()).hexdigest()

    def _boxes(self, index: Tensor, shift: Float[Tensor, "b 2"], scale: Float[Tensor, "b"]) -> Float[Tensor, "b 4"]:
        """Of objects in search crops that are moved by a share of their side and show `scale` times as much."""
        side, boxes = self.geometry.search, self._located[index]
        size = boxes[:, 2:] - boxes[:, :2]
        half = size / self.geometry.window(size) * side / scale[:, None] / 2
        centre = (0.5 + shift) * side
        return torch.cat([centre - half, centre + half], 1)

    def _cut(self, index: Tensor, size: tuple[int, int]) -> UInt8[Tensor, "b c u v"]:
        """Crops at search scale around objects, outside of frames their mean colour, in 8 bits."""
        boxes, parts = self._located[index], []
        for rows, box in zip(torch.split(index, BATCH), torch.split(boxes, BATCH), strict=True):
            frame = self.clips.fetch(self.frames[rows]).x
            fill, centre = frame.mean((2, 3), keepdim=True), (box[:, :2] + box[:, 2:]) / 2
            half = self.geometry.window(box[:, 2:] - box[:, :2]) * (size[0] / self.geometry.search) / 2
            window = torch.cat([centre - half, centre + half], 1)[:, None]
            parts.append(stored((cut_out(frame - fill, window, size) + fill).clamp(0, 1), PHOTO))
        return torch.cat(parts)

    def _crops(self) -> np.ndarray:
        """Crops of all rows with room around, cut once for all epochs."""
        if not self._kept:
            side = self.geometry.search + 2 * math.ceil(self.geometry.search * ROOM / 2)
            kept = storage((len(self), self.clips.shape[0], side, side))
            for rows in torch.split(torch.arange(len(self)), BATCH):
                kept[rows[0] : rows[-1] + 1] = self._cut(rows, (side, side)).numpy()
            self._kept.append(kept)
        return self._kept[0]

    def _moved(self, index: Tensor, mirror: Tensor, scale: Tensor, turn: Tensor, shift: Tensor,
               device: torch.device | str) -> Images:
        """Search crops in which the object is off the centre by a share of the side."""
        kept = unit(torch.from_numpy(self._crops()[index.numpy()]).to(device), PHOTO)
        shape = (*kept.shape[:2], self.geometry.search, self.geometry.search)
        theta = affine(shape, turn.rad2deg(), scale * shape[2] / kept.shape[2], mirror=mirror)
        theta[:, :, 2:] = -theta[:, :, :2] @ (2 * shift)[:, :, None]
        grid = functional.affine_grid(theta.to(device), list(shape), align_corners=False)
        return functional.grid_sample(kept, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _runs(groups: Tensor) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"]]:
    """For each row the first row of its group, and the number of rows that this has; its rows follow one another."""
    _, inverse, counts = torch.unique_consecutive(groups, return_inverse=True, return_counts=True)
    starts = counts.cumsum(0) - counts
    return starts[inverse], counts[inverse]
