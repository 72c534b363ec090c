"""The interface of executors: submit a cell, ask which have ended, cancel one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from sidedoor.bench.spec import Spec

THREADS = 1
"""Threads of every cell, whatever the number of workers, so that tables do not depend on it."""


@dataclass(frozen=True)
class Cell:
    """A cell to be run.

    Args:
        model: key of the model that it is about.
        trains: keys of the models that it trains unless the store has them.
        name: what tells it from the others it is run with.
    """

    spec: Spec
    key: str
    model: str
    trains: frozenset[str]
    name: str = ""

    def __str__(self) -> str:
        return self.name or self.key


@dataclass(frozen=True)
class Ended:
    """A cell that is not run any more.

    Args:
        died: what ended it before it could write its record; None if it came to its end.
    """

    cell: Cell
    died: str | None = None


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
