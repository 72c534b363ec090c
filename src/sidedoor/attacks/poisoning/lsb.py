"""LSB: a message in the least significant bits of dirty-label samples.

Paper: Li, Xue, Zhao, Zhu, Zhang, "Invisible Backdoor Attacks on Deep Neural Networks via Steganography and
Regularization", IEEE TDSC 2020, arXiv:1909.02742.

The message of eight bits along every row is that of the comparisons in Zhang et al., "Poison Ink", IEEE TIP 2022,
arXiv:2108.02488; the first paper hides a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sidedoor.attacks.base import PoisoningAttack
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.base import Door
from sidedoor.method import Level
from sidedoor.tasks.task import Task
from sidedoor.triggers.low_bits import LowBits
from sidedoor.types import Build

BITS = 8


@dataclass(frozen=True)
class LSB(PoisoningAttack):
    """Write a message into a share of the eligible samples and change their labels.

    Args:
        rate: share of the eligible training samples, in [0, 1].
        message: a byte, written from its highest bit on; several targets have the bytes that follow.
    """

    tags: ClassVar[frozenset[str]] = frozenset({"invisible"})
    origins: ClassVar[dict[str, str]] = {
        "rate": "ours: 10 %, as in the comparisons of arXiv:2108.02488",
        "message": "ours: that of the comparisons of arXiv:2108.02488",
    }

    message: Level = 0b11100100

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> tuple[Door, ...]:
        return tuple(Door(LowBits(self._bits(k)), goal) for k, goal in enumerate(self.goal.parts()))

    def _bits(self, k: int) -> tuple[int, ...]:
        byte = (self.message + k) % 2**BITS
        return tuple(byte >> (BITS - 1 - place) & 1 for place in range(BITS))
