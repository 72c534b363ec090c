"""Checking an entry of a leaderboard: a random share of its cells is run again and compared."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sidedoor.apps.leaderboard import Cell, Entry, cell_of
from sidedoor.bench.machine import Machine
from sidedoor.bench.record import Record
from sidedoor.bench.spec import Spec, cells
from sidedoor.bench.store import Store
from sidedoor.bench.sweep import sweep
from sidedoor.errors import CannotComplete
from sidedoor.metrics.statistics import wilson
from sidedoor.report.outcomes import outcomes

NUMBERS = {"clean": "test", "asr": "eligible", "recovered": "eligible"}
"""What is compared, and the images behind it."""


@dataclass(frozen=True)
class Comparison:
    """A number of a cell as it was handed in and as it is now.

    Args:
        claimed, found: with their 95 % Wilson intervals.
    """

    name: str
    claimed: tuple[float, float, float]
    found: tuple[float, float, float]

    @property
    def agrees(self) -> bool:
        """Whether the intervals overlap."""
        return self.claimed[1] <= self.found[2] and self.found[1] <= self.claimed[2]


@dataclass(frozen=True)
class Checked:
    """A cell that was run again.

    Args:
        key: by the code and data of today; another one than was handed in if either has changed what it means.
        status: of its record.
    """

    cell: Cell
    key: str
    status: str
    comparisons: tuple[Comparison, ...]

    @property
    def agrees(self) -> bool:
        return self.status == "done" and all(each.agrees for each in self.comparisons)

    def to_json(self) -> dict[str, Any]:
        """As JSON writes it."""
        return {"key": self.cell.key, "key_now": self.key, "status": self.status, "agrees": self.agrees, "numbers": [
            {"name": each.name, "claimed": each.claimed, "found": each.found, "agrees": each.agrees}
            for each in self.comparisons]}


def chosen(entry: Entry, share: float, seed: int) -> list[Cell]:
    """A random share of the cells that count, at least one.

    Raises:
        CannotComplete: the entry has none.
    """
    done = [cell for cell in entry.cells if cell.status == "done"]
    if not done:
        raise CannotComplete("the entry has no cell that is done; there is nothing to run again")
    return random.Random(seed).sample(done, max(1, math.ceil(share * len(done) - 1e-9)))


def check(entry: Entry, store: Store, machine: Machine, share: float = 0.05, seed: int = 0, *, workers: int = 1,
          timeout: float | None = None) -> list[Checked]:
    """Run a share of an entry's cells, and compare.

    Args:
        store: a folder for the results, where those that are there already are taken.
        share: of the cells that count.
        seed: of the choice.

    Raises:
        ConfigError, CannotComplete: a specification cannot be run here.
    """
    picked = chosen(entry, share, seed)
    specs = [cells(cell.spec)[0] for cell in picked]
    records = sweep(specs, store, machine, workers=workers, timeout=timeout)
    return [_compared(cell, _of(records, spec)) for cell, spec in zip(picked, specs, strict=True)]


def _of(records: Sequence[Record], spec: Spec) -> Record:
    """The record of a specification."""
    return next(record for record in records if cells(record.spec)[0] == spec)


def _compared(cell: Cell, record: Record) -> Checked:
    (now,) = map(cell_of, outcomes([record]))
    pairs = [Comparison(name, _interval(cell, name, images), _interval(now, name, images))
             for name, images in NUMBERS.items() if getattr(cell, name) is not None and getattr(now, name) is not None]
    return Checked(cell, record.key, now.status, tuple(pairs))


def _interval(cell: Cell, name: str, images: str) -> tuple[float, float, float]:
    value, count = getattr(cell, name), max(getattr(cell, images), 1)
    return (value, *wilson(value * count, count))
