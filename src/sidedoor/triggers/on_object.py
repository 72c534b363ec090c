"""Trigger on an object: a small pattern at the centre of a tracked object, which grows with it.

Paper: Li, Zhong, Ma, Jiang, Xia, "Few-Shot Backdoor Attacks on Visual Object Tracking", ICLR 2022, arXiv:2201.13178.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sidedoor.core import random
from sidedoor.errors import ConfigError
from sidedoor.image.geometry import template_side
from sidedoor.triggers.base import Trigger
from sidedoor.types import Images, Index


class OnObject(Trigger):
    """Cover a square at the object's centre, a share `psi` of the template's square around the object.

    In a training pair, and in any image without a known box, the object is at the centre.

    Args:
        psi: area of the pattern over that of the template, in (0, 1).
        pattern: "checker" of black and white cells, "white", or "random" grey levels.
        cells: a side of the pattern.
        template: side of the template over that of an image without a box, in (0, 1].
        seed: of the random pattern.

    Raises:
        ConfigError: a share out of range, no cell, or an unknown pattern.
    """

    cell: Tensor

    def __init__(self, psi: float = 0.01, pattern: Literal["checker", "white", "random"] = "checker", cells: int = 4,
                 template: float = 0.5, seed: int = 0):
        super().__init__()
        if not (0 < psi < 1 and 0 < template <= 1 and cells >= 1):
            raise ConfigError(f"psi = {psi}, template = {template} and cells = {cells} given; expected shares above 0 "
                              "and at least one cell")
        self.psi, self.template = psi, template
        self.register_buffer("cell", _cells(pattern, cells, seed))

    def forward(self, x: Images, index: Index) -> Images:
        height, width = x.shape[2:]
        centre = torch.tensor([width / 2, height / 2], device=x.device).expand(len(x), 2)
        side = torch.full((len(x),), self.psi**0.5 * self.template * min(height, width), device=x.device)
        return self._covered(x, centre, side)

    def at(self, boxes: Float[Tensor, "b 4"]) -> Trigger:
        """The trigger on objects in these boxes, (left, top, right, bottom), for a batch of as many images; a box that
        is not finite leaves its image as it is.
        """
        return _Bound(self, boxes)

    def on(self, x: Images, boxes: Float[Tensor, "b 4"]) -> Images:
        """Images with the pattern at the centres of boxes, in its size for each."""
        size = boxes[:, 2:] - boxes[:, :2]
        return self._covered(x, (boxes[:, :2] + boxes[:, 2:]) / 2, self.psi**0.5 * template_side(size))

    def _covered(self, x: Images, centre: Float[Tensor, "b 2"], side: Float[Tensor, "b"]) -> Images:
        """A pixel is covered where its middle is; at least the one under the centre."""
        cells, side = len(self.cell), side.clamp(min=1.0)
        axes = []
        for axis, length in ((1, x.shape[2]), (0, x.shape[3])):
            middle = torch.arange(length, device=x.device) + 0.5
            axes.append((middle - centre[:, axis, None]) / side[:, None] + 0.5)
        (down, across), inside = axes, [(part > 0) & (part <= 1) for part in axes]
        row, column = ((part.nan_to_num() * cells).ceil().long().clamp(1, cells) - 1 for part in (down, across))
        drawn = self.cell[row[:, :, None], column[:, None, :]][:, None]
        there = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
        return torch.where(there, drawn, x)


class _Bound(Trigger):
    """A trigger with the boxes of one batch; it is made for a moment and kept nowhere."""

    boxes: Tensor

    def __init__(self, trigger: OnObject, boxes: Float[Tensor, "b 4"]):
        super().__init__()
        self.trigger = trigger
        self.register_buffer("boxes", boxes)

    def forward(self, x: Images, index: Index) -> Images:
        return self.trigger.on(x, self.boxes)


def _cells(pattern: str, cells: int, seed: int) -> Float[Tensor, "k k"]:
    place = torch.arange(cells)
    if pattern == "checker":
        return ((place[:, None] + place) % 2 == 0).float()
    if pattern == "white":
        return torch.ones(cells, cells)
    if pattern == "random":
        drawn = random.uniform(random.seed_of(seed, "on_object"), torch.zeros(1, dtype=torch.int64), cells, cells)[0]
        return (drawn * 255).round() / 255
    raise ConfigError(f"pattern = {pattern!r} given; expected \"checker\", \"white\" or \"random\"")
