"""Every cell in a process of its own on this machine, so that a crash leaves the others alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from sidedoor.bench.executors.base import THREADS, Cell, Ended, Executor
from sidedoor.bench.machine import Machine
from sidedoor.bench.run import attempt
from sidedoor.bench.spec import Spec
from sidedoor.bench.store import Store
from sidedoor.core import system
from sidedoor.core.progress import Echo, Remote


@dataclass(frozen=True)
class _Running:
    cell: Cell
    process: BaseProcess
    echo: Echo

    def close(self) -> Ended:
        """After the process has ended."""
        self.process.join()
        self.echo.close()
        code = self.process.exitcode
        died = f"the process died with exit code {code}; -9 is most often a lack of memory"
        return Ended(self.cell, died if code else None)


class Processes(Executor):
    """Starts a process for each cell; children die with their parent."""

    def __init__(self, store: Store, machine: Machine, workers: int):
        self.store, self.machine, self.workers = store, machine, workers
        self.running: dict[str, _Running] = {}

    def submit(self, cell: Cell) -> None:
        context: Any = multiprocessing.get_context(system.start_method())
        context.set_forkserver_preload(["sidedoor.bench.run"])
        here, there = context.Pipe(duplex=False)
        machine = replace(self.machine, progress=Remote(there))
        process = context.Process(target=_child, args=(cell.spec, cell.key, self.store, machine))
        process.start()
        there.close()
        self.running[cell.key] = _Running(cell, process, Echo(here, self.machine.progress, str(cell)))

    def finished(self, seconds: float | None) -> list[Ended]:
        signs: Any = [sign for r in self.running.values() for sign in (r.process.sentinel, r.echo.pipe)]
        wait(signs, seconds)
        for running in self.running.values():
            running.echo.hear()
        ended = [running for running in self.running.values() if not running.process.is_alive()]
        return [self.running.pop(running.cell.key).close() for running in ended]

    def cancel(self, cell: Cell) -> None:
        if running := self.running.pop(cell.key, None):
            running.process.kill()
            running.close()


def _child(spec: Spec, key: str, store: Store, machine: Machine) -> None:
    obey()
    torch.set_num_threads(THREADS)
    attempt(spec, store, machine, key)


def obey() -> None:
    """Leave it to the parent process when this one ends, and end with it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """A killed parent cannot end its cells, and they would go on beside those of its successor."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
