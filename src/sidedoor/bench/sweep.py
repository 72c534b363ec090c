"""Many cells, one process each: a crash or a time-out takes nothing else down, and a kill loses nothing."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from typing import Any

import torch

from sidedoor.bench.case import load_data
from sidedoor.bench.machine import Machine
from sidedoor.bench.record import Record
from sidedoor.bench.run import attempt, broken, finished
from sidedoor.bench.spec import Spec
from sidedoor.bench.store import Store
from sidedoor.core.progress import Echo, Remote
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.errors import ConfigError

THREADS = 1
"""Threads of every cell, whatever the number of workers, so that tables do not depend on it."""


@dataclass(frozen=True)
class Cell:
    """A cell to be run, with the keys of the models it trains if nobody has."""

    spec: Spec
    key: str
    trains: frozenset[str]


@dataclass
class _Running:
    cell: Cell
    process: ForkServerProcess
    deadline: float
    echo: Echo


@dataclass
class _Queue:
    """Cells that wait, and those that run. A cell waits while another trains a model it needs."""

    waiting: list[Cell]
    store: Store
    running: list[_Running] = field(default_factory=list)

    def ready(self) -> Cell | None:
        needed = frozenset[str]().union(*(r.cell.trains for r in self.running))
        training = {key for key in needed if not self.store.model(key).exists()}
        cell = next((cell for cell in self.waiting if not cell.trains & training), None)
        if cell is not None:
            self.waiting.remove(cell)
        return cell


def sweep(specs: list[Spec], store: Store, machine: Machine | None = None, *, workers: int = 1,
          timeout: float | None = None) -> list[Record]:
    """Run cells that the store does not have yet; the records of all, in the order given.

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
    machine = machine or Machine()
    machine.check()
    cells = [_cell(spec, machine) for spec in specs]
    todo = [cell for cell in cells if finished(store, cell.key) is None]
    with machine.progress.task("cells", len(cells)) as advance:
        advance(len(cells) - len(todo))
        for record in _serially(todo, store, machine) if workers == 0 else _in_processes(
            _Queue(todo, store), machine, workers, timeout
        ):
            advance(1, f"{record.attack_name} {record.defense_name}: {record.status}")
    return [kept for cell in cells if (kept := store.record(cell.key)) is not None]


def keys_of(specs: list[Spec], machine: Machine) -> list[str]:
    """The keys of cells.

    Raises:
        CannotComplete: their data or the device are missing.
    """
    machine.check()
    return [_cell(spec, machine).key for spec in specs]


def _cell(spec: Spec, machine: Machine) -> Cell:
    _, fingerprint = load_data(spec, machine)
    references = spec.references if isinstance(spec.make_defense(), ModelAudit) else 1
    siblings = {spec.sibling(spec.seed + i).key(fingerprint) for i in range(references)}
    return Cell(spec, spec.key(fingerprint), frozenset(siblings | {spec.attack_half().key(fingerprint)}))


def _serially(cells: list[Cell], store: Store, machine: Machine) -> Iterator[Record]:
    with _threads(THREADS):
        for cell in cells:
            yield attempt(cell.spec, store, machine, cell.key)


def _in_processes(queue: _Queue, machine: Machine, workers: int, timeout: float | None) -> Iterator[Record]:
    try:
        while queue.waiting or queue.running:
            while len(queue.running) < workers and (cell := queue.ready()) is not None:
                queue.running.append(_started(cell, queue.store, machine, timeout))
            yield from _ended(queue, timeout)
    finally:
        for running in queue.running:
            running.process.kill()
            running.process.join()
            running.echo.close()


def _started(cell: Cell, store: Store, machine: Machine, timeout: float | None) -> _Running:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sidedoor.bench.run"])
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(cell, store, replace(machine, progress=Remote(there))))
    process.start()
    there.close()
    echo = Echo(here, machine.progress, f"{cell.spec.attack_name} {cell.spec.defense_name}, seed {cell.spec.seed}")
    return _Running(cell, process, time.monotonic() + (timeout or float("inf")), echo)


def _ended(queue: _Queue, timeout: float | None) -> Iterator[Record]:
    """Wait for a cell to say something, to end, or for a deadline; the records of those that ended."""
    signs: Any = [sign for r in queue.running for sign in (r.process.sentinel, r.echo.pipe)]
    left = min(r.deadline for r in queue.running) - time.monotonic()
    wait(signs, None if left == float("inf") else max(left, 0))
    for running in list(queue.running):
        running.echo.hear()
        late = time.monotonic() > running.deadline
        if running.process.is_alive() and not late:
            continue
        if running.process.is_alive():
            running.process.kill()
        running.process.join()
        running.echo.close()
        queue.running.remove(running)
        yield _outcome(running, queue.store, f"gave up after {timeout:g} s" if timeout and late else None)


def _outcome(running: _Running, store: Store, given_up: str | None) -> Record:
    key = running.cell.key
    # A process that died may have left the record of an earlier attempt.
    record = store.record(key) if running.process.exitcode == 0 else finished(store, key)
    if record is not None:
        return record
    died = f"the process died with exit code {running.process.exitcode}; -9 is most often a lack of memory"
    record = broken(running.cell.spec, key, "timeout" if given_up else "error", given_up or died)
    store.put(record)
    return record


def _child(cell: Cell, store: Store, machine: Machine) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(THREADS)
    attempt(cell.spec, store, machine, cell.key)


def _die_with_parent() -> None:
    """A killed parent cannot end its cells, and they would go on beside those of its successor."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
