"""Sweeps of many cells: a crash or a time-out leaves the others alone, and a kill loses nothing."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from sidedoor.bench.executors.base import Cell, Ended, Executor, Jobs
from sidedoor.bench.executors.processes import Processes
from sidedoor.bench.executors.serial import Serial
from sidedoor.bench.machine import Machine
from sidedoor.bench.plan import check_networks, planned
from sidedoor.bench.record import NOT_APPLICABLE, Record
from sidedoor.bench.run import broken, finished
from sidedoor.bench.spec import Spec
from sidedoor.bench.store import Store
from sidedoor.errors import ConfigError

POLL = 2.0
"""Seconds after which a free worker looks again whether a model that a cell waits for has been trained."""


@dataclass
class _Queue:
    """Cells that wait, and those that run, each with the moment at which it is given up.

    A cell waits while another makes something that it needs: a model or networks of the shelf. It is set aside under
    the first such thing and not looked at again until that is there, or whoever made it has ended.
    """

    waiting: deque[Cell]
    store: Store
    timeout: float | None = None
    running: dict[str, tuple[Cell, float]] = field(default_factory=dict)
    aside: dict[str, deque[Cell]] = field(default_factory=dict)
    making: dict[str, str] = field(default_factory=dict)
    there: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.waiting or self.aside or self.running)

    def ready(self) -> Cell | None:
        """The next cell that may start, which counts as running from here on."""
        while (cell := self._next()) is None and self._look():
            pass
        return cell

    def ended(self, cell: Cell, scored: bool) -> None:
        """A cell is not running any more; scored, it has made all that it needs."""
        del self.running[cell.key]
        if scored:
            self.there |= cell.needs
        for need in [need for need in cell.needs if self.making.get(need) == cell.key]:
            del self.making[need]
            self._call(need)

    def _next(self) -> Cell | None:
        while self.waiting:
            cell = self.waiting.popleft()
            if busy := next((need for need in sorted(cell.needs) if need in self.making), None):
                self.aside.setdefault(busy, deque()).append(cell)
                continue
            self.making |= dict.fromkeys(cell.needs - self.there, cell.key)
            self.running[cell.key] = cell, time.monotonic() + (self.timeout or float("inf"))
            return cell
        return None

    def _look(self) -> bool:
        """Whether something that cells are set aside for has come to be there."""
        found = [need for need in self.aside if self.store.model(need).exists() or self.store.mark(need).exists()]
        for need in found:
            self.making.pop(need, None)
            self.there.add(need)
            self._call(need)
        return bool(found)

    def _call(self, need: str) -> None:
        """Look again at the cells that were set aside for something, before those that come later."""
        self.waiting.extendleft(reversed(self.aside.pop(need, ())))

    def patience(self) -> float | None:
        """Seconds until there may be something to do though no cell has ended; None if there never is."""
        left = min(deadline for _, deadline in self.running.values()) - time.monotonic()
        left = min(left, POLL if self.aside else left)
        return None if left == float("inf") else max(left, 0)

    def late(self) -> list[Cell]:
        """Cells that are running past their time."""
        return [cell for cell, deadline in self.running.values() if time.monotonic() > deadline]


def sweep(specs: list[Spec], store: Store, machine: Machine | None = None, *, workers: int = 1,
          timeout: float | None = None, executor: Executor | Jobs | None = None) -> list[Record]:
    """Run cells that the store does not have yet; the records of all, each once, in the order given.

    Args:
        workers: processes at a time; 0 runs the cells one after another in this process.
        timeout: seconds after which a cell is given up.
        executor: where cells are run; None: in processes of this machine, or in this process.

    Raises:
        ConfigError: a timeout without a process to end.
        CannotComplete: data or a device are missing; nothing has been run then.
    """
    if timeout is not None and ((workers == 0 and executor is None) or timeout <= 0):
        raise ConfigError(f"a timeout of {timeout:g} s with {workers} workers given; expected a positive one and at "
                          "least one worker, since only a process of its own can be given up")
    if any(spec.devices > 1 for spec in specs):
        raise ConfigError(f"devices = {max(spec.devices for spec in specs)} given; a sweep computes each cell on one "
                          "device: leave it out, or use `sidedoor run`")
    machine = machine or Machine()
    cells = planned(specs, machine)
    todo = _suited([cell for cell in cells if finished(store, cell.key) is None], store)
    check_networks(todo, machine)
    executor = executor or (Processes(store, machine, workers) if workers else Serial(store, machine))
    known, called = len(cells) - len(todo), {cell.key: str(cell) for cell in todo}
    # Cells that are known take no time, and would make that of the others look short.
    with machine.progress.task(f"cells ({known} known)" if known else "cells", len(todo)) as advance:
        records = executor.run(todo) if isinstance(executor, Jobs) else \
            _run(_Queue(deque(todo), store, timeout), executor)
        for record in records:
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
        while queue:
            while len(queue.running) < executor.workers and (cell := queue.ready()) is not None:
                executor.submit(cell)
            for ended in executor.finished(queue.patience()):
                record = _outcome(ended, queue.store)
                queue.ended(ended.cell, record.scored)
                yield record
            for cell in queue.late():
                executor.cancel(cell)
                record = _given_up(cell, queue)
                queue.ended(cell, record.scored)
                yield record
    finally:
        for cell, _ in queue.running.values():
            executor.cancel(cell)


def _outcome(ended: Ended, store: Store) -> Record:
    """The record that a cell has written, or that of its death."""
    key = ended.cell.key
    # A cell that died may have left the record of an earlier attempt.
    found = store.record(key) if ended.died is None else finished(store, key)
    record = found or broken(ended.cell.spec, key, "error", ended.died or "it ended without a record")
    record = replace(record, resubmitted=ended.resubmitted)
    if record != found:
        store.put(record)
    return record


def _given_up(cell: Cell, queue: _Queue) -> Record:
    """The record of a cell that took too long, unless it finished at the last moment."""
    record = finished(queue.store, cell.key)
    if record is None:
        record = broken(cell.spec, cell.key, "timeout", f"gave up after {queue.timeout:g} s")
        queue.store.put(record)
    return record
