"""A sweep in parts that different machines run, whatever starts them: all cells of a model are in one part."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sidedoor.bench.executors.base import Cell
from sidedoor.errors import ConfigError


@dataclass(frozen=True)
class Shard:
    """One of several parts of a sweep.

    Args:
        number: from 1 to `count`.
    """

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, cells: Sequence[Cell]) -> list[Cell]:
        """Its cells: those whose model's key, a hash, has a remainder of its own."""
        return [cell for cell in cells if int(cell.model, 16) % self.count == self.number - 1]


def shard(given: str) -> Shard:
    """A part as it is written, such as 2/8.

    Raises:
        ConfigError: it is no such part.
    """
    if found := re.fullmatch(r"(\d{1,6})/(\d{1,6})", given, re.ASCII):
        number, count = map(int, found.groups())
        if 1 <= number <= count:
            return Shard(number, count)
    raise ConfigError(f"--shard {given} given; expected I/N with I from 1 to N: 1/8, 2/8, ..., 8/8 are all parts of a "
                      "sweep in 8")


def by_model(cells: Sequence[Cell]) -> list[list[Cell]]:
    """A part for each model, in the order of the cells."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.model, []).append(cell)
    return list(found.values())
