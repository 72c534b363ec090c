"""What runs on a node of a Ray cluster: a process of its own for each cell, forked from one that has torch imported.

A Ray worker would either import torch anew for each cell, or hold the peak of memory of all cells that it has run. This
module itself imports nothing heavy, so that a worker stays small.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from typing import Any

from sidedoor.core import system


def run(errand: dict[str, Any], gpus: float) -> dict[str, str]:
    """Run a cell: empty if it has its record; else {"refused": why, "node": its name} or {"died": how}.

    Args:
        errand: of the cell, as it travels.
        gpus: the share of a GPU that it gets.
    """
    context: Any = multiprocessing.get_context(system.start_method())
    context.set_forkserver_preload(["sidedoor.bench.executors.errand"])
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(errand, gpus, there))
    process.start()
    there.close()
    process.join()
    if here.poll():
        try:
            return {"refused": here.recv(), "node": node()}
        except EOFError:
            pass
    return {"died": f"its process died with exit code {process.exitcode}"} if process.exitcode else {}


def node() -> str:
    """The name that Ray gives this node."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def _child(errand: dict[str, Any], gpus: float, refusing: Connection) -> None:
    import torch

    from sidedoor.bench.executors.errand import Errand
    from sidedoor.bench.executors.processes import obey
    from sidedoor.errors import CannotComplete

    obey()
    given = Errand.from_json(errand)
    try:
        given.check()
    except CannotComplete as error:
        refusing.send(str(error))
        return
    if 0 < gpus < 1 and torch.cuda.is_available():  # Ray only counts shares
        torch.cuda.set_per_process_memory_fraction(gpus)
    given.run()
