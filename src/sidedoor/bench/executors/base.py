"""The interface of executors: submit a cell, ask which have ended, cancel one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sidedoor.bench.record import Record
from sidedoor.bench.spec import Spec

THREADS = 1
"""Threads of every cell, whatever the number of workers, so that tables do not depend on it."""


@dataclass(frozen=True)
class Cell:
    """A cell to be run.

    Args:
        model: key of the model that it is about.
        trains: keys of the models that it trains unless the store has them.
        shares: names of the networks of the shelf that it makes unless they are there.
        name: what tells it from the others it is run with.
    """

    spec: Spec
    key: str
    model: str
    trains: frozenset[str]
    shares: frozenset[str] = frozenset()
    name: str = ""

    @property
    def needs(self) -> frozenset[str]:
        """All that it makes unless it is there: only one cell at a time is to do so."""
        return self.trains | self.shares

    def __str__(self) -> str:
        return self.name or self.key


@dataclass(frozen=True)
class Ended:
    """A cell that is not run any more.

    Args:
        died: what ended it before it could write its record; None if it came to its end.
        resubmitted: how often it was started again after what ran it had died.
    """

    cell: Cell
    died: str | None = None
    resubmitted: int = 0


class Executor(ABC):
    """Runs cells, each of which writes its own record.

    Only specification, key, store and machine travel to where a cell is run.

    Attributes:
        workers: cells that it runs at a time.
    """

    workers: int = 1

    @abstractmethod
    def submit(self, cell: Cell) -> None:
        """Run a cell; at most `workers` are given at a time."""

    @abstractmethod
    def finished(self, seconds: float | None) -> list[Ended]:
        """Wait until a cell has ended, or so many seconds (None: for ever); the cells that have."""

    @abstractmethod
    def cancel(self, cell: Cell) -> None:
        """End a cell that is running; it is not among those finished."""


class Jobs(ABC):
    """Runs all cells at once, in jobs that a scheduler starts when it has room; each is a sweep of its own."""

    @abstractmethod
    def run(self, cells: Sequence[Cell]) -> Iterator[Record]:
        """The records of cells as their jobs end."""
