"""Sepia: the brown tone of old photographs.

Paper: none; the matrix is that of the W3C's Filter Effects Module Level 1, section 10.1 (`sepia()`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sidedoor.method import Share
from sidedoor.trigger_designs.base import AttributeEditor, Setting
from sidedoor.triggers.base import Trigger
from sidedoor.types import Images, Index

MATRIX = ((0.393, 0.769, 0.189), (0.349, 0.686, 0.168), (0.272, 0.534, 0.131))
"""Red, green and blue of the toned image from those of the image; white becomes brighter than white."""


@dataclass(frozen=True)
class Sepia(AttributeEditor):
    """Tone every image.

    Args:
        amount: in [0, 1]; 1 leaves nothing of the image's own colours.
    """

    origins: ClassVar[dict[str, str]] = {"amount": "ours"}

    amount: Share = 0.8

    def make(self, setting: Setting) -> Trigger:
        return _Toned(self.amount).to(setting.run.device)


class _Toned(Trigger):
    """Mix an image with its tone; a grey image takes the mean of what red, green and blue would get."""

    matrix: Tensor

    def __init__(self, amount: float):
        super().__init__()
        self.amount = amount
        self.register_buffer("matrix", torch.tensor(MATRIX))

    def forward(self, x: Images, index: Index) -> Images:
        if x.shape[1] == 3:
            toned = (self.matrix[None, :, :, None, None] * x[:, None]).sum(2)
        else:
            toned = self.matrix.sum(1).mean() * x
        mixed: Tensor = torch.lerp(x, toned, self.amount)
        return mixed
