"""Sweeps of many cells: a crash or a time-out leaves the others alone, and a kill loses nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from sidedoor.bench.executors.base import Cell, Ended, Executor
from sidedoor.bench.executors.processes import Processes
from sidedoor.bench.executors.serial import Serial
from sidedoor.bench.machine import Machine
from sidedoor.bench.plan import check_networks, planned
from sidedoor.bench.record import NOT_APPLICABLE, Record
from sidedoor.bench.run import broken, finished
from sidedoor.bench.spec import Spec
from sidedoor.bench.store import Store
from sidedoor.errors import ConfigError


@dataclass
class _Queue:
    """Cells that wait, and those that run, each with the moment at which it is given up.

    A cell waits while another trains a model that it needs.
    """

    waiting: list[Cell]
    store: Store
    timeout: float | None = None
    running: dict[str, tuple[Cell, float]] = field(default_factory=dict)

    def ready(self) -> Cell | None:
        """The next cell that may start, which counts as running from here on."""
        needed = frozenset[str]().union(*(cell.trains for cell, _ in self.running.values()))
        training = {key for key in needed if not self.store.model(key).exists()}
        cell = next((cell for cell in self.waiting if not cell.trains & training), None)
        if cell is not None:
            self.waiting.remove(cell)
            self.running[cell.key] = cell, time.monotonic() + (self.timeout or float("inf"))
        return cell

    def patience(self) -> float | None:
        """Seconds until the next cell is given up; None if none ever is."""
        left = min(deadline for _, deadline in self.running.values()) - time.monotonic()
        return None if left == float("inf") else max(left, 0)

    def late(self) -> list[Cell]:
        """Cells that are running past their time."""
        return [cell for cell, deadline in self.running.values() if time.monotonic() > deadline]


def sweep(specs: list[Spec], store: Store, machine: Machine | None = None, *, workers: int = 1,
          timeout: float | None = None) -> list[Record]:
    """Run cells that the store does not have yet; the records of all, each once, in the order given.

    Args:
        workers: processes at a time; 0 runs the cells one after another in this process.
        timeout: seconds after which a cell is given up.

    Raises:
        ConfigError: a timeout without a process to end.
        CannotComplete: data or a device are missing; nothing has been run then.
    """
    if timeout is not None and (workers == 0 or timeout <= 0):
        raise ConfigError(f"a timeout of {timeout:g} s with {workers} workers given; expected a positive one and at "
                          "least one worker, since only a process of its own can be given up")
    if any(spec.devices > 1 for spec in specs):
        raise ConfigError(f"devices = {max(spec.devices for spec in specs)} given; a sweep computes each cell on one "
                          "device: leave it out, or use `sidedoor run`")
    machine = machine or Machine()
    cells = planned(specs, machine)
    todo = _suited([cell for cell in cells if finished(store, cell.key) is None], store)
    check_networks(todo, machine)
    executor = Processes(store, machine, workers) if workers else Serial(store, machine)
    known, called = len(cells) - len(todo), {cell.key: str(cell) for cell in todo}
    # Cells that are known take no time, and would make that of the others look short.
    with machine.progress.task(f"cells ({known} known)" if known else "cells", len(todo)) as advance:
        for record in _run(_Queue(todo, store, timeout), executor):
            advance(1, f"{called[record.key]}: {record.status}")
    return [kept for cell in cells if (kept := store.record(cell.key)) is not None]


def _suited(cells: list[Cell], store: Store) -> list[Cell]:
    """The cells whose methods suit each other; the records of the others say why theirs do not."""
    suited = []
    for cell in cells:
        if reason := cell.spec.refusal():
            store.put(broken(cell.spec, cell.key, NOT_APPLICABLE, reason))
        else:
            suited.append(cell)
    return suited


def _run(queue: _Queue, executor: Executor) -> Iterator[Record]:
    """The records of cells as they end."""
    try:
        while queue.waiting or queue.running:
            while len(queue.running) < executor.workers and (cell := queue.ready()) is not None:
                executor.submit(cell)
            for ended in executor.finished(queue.patience()):
                del queue.running[ended.cell.key]
                yield _outcome(ended, queue.store)
            for cell in queue.late():
                executor.cancel(cell)
                del queue.running[cell.key]
                yield _given_up(cell, queue)
    finally:
        for cell, _ in queue.running.values():
            executor.cancel(cell)


def _outcome(ended: Ended, store: Store) -> Record:
    """The record that a cell has written, or that of its death."""
    key = ended.cell.key
    # A cell that died may have left the record of an earlier attempt.
    record = store.record(key) if ended.died is None else finished(store, key)
    if record is not None:
        return record
    record = broken(ended.cell.spec, key, "error", ended.died or "it ended without a record")
    store.put(record)
    return record


def _given_up(cell: Cell, queue: _Queue) -> Record:
    """The record of a cell that took too long, unless it finished at the last moment."""
    record = finished(queue.store, cell.key)
    if record is None:
        record = broken(cell.spec, cell.key, "timeout", f"gave up after {queue.timeout:g} s")
        queue.store.put(record)
    return record
