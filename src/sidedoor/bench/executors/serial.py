"""One cell after another in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from sidedoor.bench.executors.base import THREADS, Cell, Ended, Executor
from sidedoor.bench.machine import Machine
from sidedoor.bench.run import attempt
from sidedoor.bench.store import Store


class Serial(Executor):
    """Runs a cell when it is submitted."""

    def __init__(self, store: Store, machine: Machine):
        self.store, self.machine = store, machine
        self.done: list[Ended] = []

    def submit(self, cell: Cell) -> None:
        with _threads(THREADS):
            attempt(cell.spec, self.store, self.machine, cell.key)
        self.done.append(Ended(cell))

    def finished(self, seconds: float | None) -> list[Ended]:
        done, self.done = self.done, []
        return done

    def cancel(self, cell: Cell) -> None:
        """Nothing is running once `submit` has returned."""


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
