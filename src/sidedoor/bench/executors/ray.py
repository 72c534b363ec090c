"""Cells on a Ray cluster: one task a cell, never run again unseen, on nodes that share the store's folder.

Ray by itself runs a task three more times after its worker has died, without a word. Here it never does: what was lost
is submitted again by this module, at most twice, and the record counts it. A cell that the node's memory did not
suffice for is submitted once more with twice the memory. A node that cannot do a cell, because data are missing there,
gets no other; the cell goes to another node.
"""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sidedoor.bench.executors.base import THREADS, Cell, Ended, Executor
from sidedoor.bench.executors.errand import Errand
from sidedoor.bench.executors.ray_worker import run
from sidedoor.bench.machine import Machine
from sidedoor.bench.store import Store
from sidedoor.errors import CannotComplete, ConfigError

log = logging.getLogger("sidedoor")
LOST = ("WorkerCrashedError", "NodeDiedError", "LocalRayletDiedError", "ObjectLostError")
"""Of `ray.exceptions`: what says that a worker or node has died under a cell."""
AGAIN = 2
"""Submissions after a loss, at most."""
NODE = "ray.io/node-id"
"""The label that Ray gives each node."""


def connect(address: str | None) -> Any:
    """The module ray, connected to the cluster at an address.

    `ray.init` without an address attaches to whatever cluster it finds, or starts one; so there has to be one here.

    Args:
        address: HOST:PORT of the head on one of its nodes, or ray://HOST:PORT from elsewhere.

    Raises:
        ConfigError: no such address.
        CannotComplete: ray is not installed, or no cluster answers there.
    """
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        given = f"--address {address} given" if address else "no --address given"
        raise ConfigError(f"{given}; the executor ray needs that of a running cluster: HOST:PORT on one of its nodes, "
                          "ray://HOST:PORT from elsewhere (`ray start --head --port 6379` starts one)")
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise CannotComplete("the executor ray needs ray; pip install 'sidedoor[ray]'") from error
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError, ImportError) as error:
        raise CannotComplete(f"no Ray cluster answers at {address}: {error}") from error
    return ray


@dataclass(frozen=True)
class _Task:
    """A cell that was submitted.

    Args:
        memory: MiB that it asks for; 0 for none in particular.
        lost: how often it was submitted again after a worker or a node had died.
        doubled: whether it was submitted again for want of memory.
    """

    cell: Cell
    memory: float = 0.0
    lost: int = 0
    doubled: bool = False


@dataclass
class Ray(Executor):
    """Submits cells as Ray tasks.

    Args:
        ray: the module, connected.
        memory: MiB that a cell is expected to need, by what others like it did; 0 for unknown.
        gpus: of a GPU, the share that each cell gets.
        most: cells at a time; None: as many as the cluster has processors for.
    """

    store: Store
    machine: Machine
    ray: Any
    memory: Callable[[Cell], float] = lambda cell: 0.0
    gpus: float = 0.0
    most: int | None = None
    running: dict[Any, _Task] = field(default_factory=dict)
    drained: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.gpus == 0 or self.gpus >= 1 or 1 / self.gpus == round(1 / self.gpus) <= 8):
            raise ConfigError(f"{self.gpus:g} of a GPU a cell given; expected 0, a whole number, or 1/2 to 1/8")
        self.task = self.ray.remote(max_retries=0, retry_exceptions=False)(run)

    @property
    def workers(self) -> int:  # type: ignore[override]  # nodes come and go
        there: dict[str, float] = self.ray.cluster_resources()
        places = math.floor(there.get("CPU", 0) / THREADS)
        if self.gpus:
            places = min(places, math.floor(there.get("GPU", 0) / self.gpus + 1e-9))
        largest = max((task.memory for task in self.running.values()), default=0)
        if largest:
            places = min(places, math.floor(there.get("memory", 0) / 2**20 / largest))
        return max(1, min(places, places if self.most is None else self.most))

    def submit(self, cell: Cell) -> None:
        self._submit(_Task(cell, self.memory(cell)))

    def finished(self, seconds: float | None) -> list[Ended]:
        references = list(self.running)
        ready, _ = self.ray.wait(references, num_returns=1, timeout=seconds)
        if ready:  # and all others that are by now
            ready, _ = self.ray.wait(references, num_returns=len(references), timeout=0)
        ended = [self._ended(self.running.pop(each), each) for each in ready]
        return [each for each in ended if each is not None]

    def cancel(self, cell: Cell) -> None:
        for reference, task in list(self.running.items()):
            if task.cell.key == cell.key:
                del self.running[reference]
                self.ray.cancel(reference, force=True)

    def _submit(self, task: _Task) -> None:
        memory = min(task.memory, self._largest()) * 2**20  # more than any node has would wait for ever
        asked: dict[str, Any] = {"num_cpus": THREADS, "num_gpus": self.gpus, "memory": memory or None,
                                 "name": str(task.cell)}
        if self.drained:
            asked["label_selector"] = {NODE: f"!in({','.join(self.drained)})"}
        errand = Errand.of(task.cell, self.store, self.machine).to_json()
        self.running[self.task.options(**asked).remote(errand, self.gpus)] = task

    def _largest(self) -> float:
        """MiB of the node that has the most."""
        return max((node["Resources"].get("memory", 0) for node in self._alive()), default=0) / 2**20

    def _alive(self) -> list[Mapping[str, Any]]:
        return [node for node in self.ray.nodes() if node["Alive"]]

    def _ended(self, task: _Task, reference: Any) -> Ended | None:
        """What has become of a cell; None if it was submitted again."""
        errors = self.ray.exceptions
        try:
            said = self.ray.get(reference)
        except errors.OutOfMemoryError as error:
            if task.doubled:
                return Ended(task.cell, f"the node's memory did not suffice: {_first(error)}", task.lost)
            self._again(task, _first(error), memory=2 * (task.memory or self._largest() / 2), doubled=True)
            return None
        except tuple(getattr(errors, name) for name in LOST) as error:
            return self._lost(task, _first(error))
        except errors.RayError as error:  # what the cell itself raised is in its record
            return Ended(task.cell, f"Ray could not run it: {_first(error)}", task.lost)
        if "refused" in said:
            self._refused(task, said["node"], said["refused"])
            return None
        return self._lost(task, said["died"]) if "died" in said else Ended(task.cell, None, task.lost)

    def _lost(self, task: _Task, why: str) -> Ended | None:
        """Submit a cell again whose process, worker or node has died, unless that has happened too often."""
        if task.lost == AGAIN:
            return Ended(task.cell, f"what ran it died {AGAIN + 1} times: {why}", task.lost)
        self._again(task, why, lost=task.lost + 1)
        return None

    def _again(self, task: _Task, why: str, **changes: Any) -> None:
        log.warning("%s is submitted again: %s", task.cell, why)
        self._submit(replace(task, **changes))

    def _refused(self, task: _Task, node: str, reason: str) -> None:
        """Give the cell to a node that has not refused any.

        Raises:
            CannotComplete: all have.
        """
        log.warning("the node %s gets no more cells: %s", node, reason)
        self.drained[node] = reason
        if all(each["NodeID"] in self.drained for each in self._alive()):
            raise CannotComplete(f"no node can run the cells: {reason}")
        self._submit(task)


def _first(error: Exception) -> str:
    """The first line of an error of Ray, which has many; its kind, if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
