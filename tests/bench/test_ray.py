"""Cells on Ray: what is asked for, what is submitted again and how often, and what is told to the sweep.

The cluster here is a stand-in that does what it is told, at once; `benchmarks/executors.py` kills those of a real one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sidedoor.bench.executors import ray_worker
from sidedoor.bench.executors.base import Cell
from sidedoor.bench.executors.errand import Errand
from sidedoor.bench.executors.peaks import Peaks
from sidedoor.bench.executors.ray import Ray, connect
from sidedoor.bench.machine import Machine
from sidedoor.bench.plan import planned
from sidedoor.bench.record import Record
from sidedoor.bench.spec import Spec
from sidedoor.bench.store import Store
from sidedoor.bench.sweep import sweep
from sidedoor.errors import CannotComplete, ConfigError

CPU = Machine(device="cpu")
Tiny = Callable[..., Spec]


class RayError(Exception):
    """What all errors of Ray are."""


def _errors() -> SimpleNamespace:
    names = ("WorkerCrashedError", "NodeDiedError", "LocalRayletDiedError", "ObjectLostError", "OutOfMemoryError")
    return SimpleNamespace(RayError=RayError, **{name: type(name, (RayError,), {}) for name in names})


@dataclass
class Cluster:
    """A module `ray` whose tasks end as the test says, one after another.

    Args:
        ends: of tasks, in their order: an error to raise, or what the worker said; "run" for the cell itself.
    """

    ends: list[Any]
    nodes_: dict[str, dict[str, float]] = field(default_factory=lambda: {"a": {"CPU": 2, "memory": 8 * 2**30}})
    asked: list[dict[str, Any]] = field(default_factory=list)
    cancelled: list[Any] = field(default_factory=list)
    exceptions: SimpleNamespace = field(default_factory=_errors)

    def remote(self, **options: Any) -> Callable[..., Any]:
        self.always = options
        return lambda function: SimpleNamespace(options=self.options)

    def options(self, **asked: Any) -> Any:
        def submit(errand: dict[str, Any], gpus: float) -> int:
            self.asked.append(asked | {"errand": errand})
            return len(self.asked) - 1

        return SimpleNamespace(remote=submit)

    def wait(self, references: list[int], num_returns: int, timeout: float | None) -> tuple[list[int], list[int]]:
        assert references
        return references[:num_returns], references[num_returns:]

    def get(self, reference: int) -> dict[str, str]:
        end = self.ends[reference]
        if isinstance(end, str) and end == "run":
            Errand.from_json(json.loads(json.dumps(self.asked[reference]["errand"]))).run()
            return {}
        if isinstance(end, str):
            raise getattr(self.exceptions, end)(f"{end}\nand more")
        return end  # type: ignore[no-any-return]

    def cancel(self, reference: int, force: bool) -> None:
        assert force
        self.cancelled.append(reference)

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": name, "Alive": bool(there), "Resources": there} for name, there in self.nodes_.items()]

    def cluster_resources(self) -> dict[str, float]:
        names = {name for there in self.nodes_.values() for name in there}
        return {name: sum(there.get(name, 0) for there in self.nodes_.values()) for name in names}


@pytest.fixture
def cell(tiny: Tiny) -> Cell:
    return planned([tiny(attack=None)], CPU)[0]


def ended(cluster: Cluster, cell: Cell, tmp_path: Path, memory: float = 0.0) -> tuple[str | None, int]:
    """How a cell died, and how often it was started again."""
    executor = Ray(Store(tmp_path), CPU, cluster, lambda cell: memory)
    executor.submit(cell)
    while executor.running:
        for each in executor.finished(None):
            return each.died, each.resubmitted
    raise AssertionError("it has not ended")


def test_what_travels_is_json_and_ray_runs_nothing_again_by_itself(cell: Cell, tmp_path: Path) -> None:
    cluster = Cluster([{}])
    assert ended(cluster, cell, tmp_path) == (None, 0)
    assert cluster.always == {"max_retries": 0, "retry_exceptions": False}
    (asked,) = cluster.asked
    assert json.loads(json.dumps(asked["errand"])) == asked["errand"]
    assert set(asked["errand"]) == {"spec", "key", "store", "locks", "data", "download", "device"}
    assert (asked["num_cpus"], asked["num_gpus"], asked["memory"]) == (1, 0, None)


@pytest.mark.parametrize("loss", ["WorkerCrashedError", "NodeDiedError", "LocalRayletDiedError", "ObjectLostError",
                                  {"died": "its process died with exit code -9"}])
def test_what_is_lost_is_submitted_again_twice_and_counted(cell: Cell, tmp_path: Path, loss: Any) -> None:
    assert ended(Cluster([loss, {}]), cell, tmp_path) == (None, 1)
    assert ended(Cluster([loss, loss, {}]), cell, tmp_path) == (None, 2)
    cluster = Cluster([loss, loss, loss, {}])
    died, again = ended(cluster, cell, tmp_path)
    assert again == 2
    assert len(cluster.asked) == 3
    assert str(died).startswith("what ran it died 3 times: ")
    assert "and more" not in str(died)


def test_what_memory_did_not_suffice_for_gets_twice_as_much_once(cell: Cell, tmp_path: Path) -> None:
    cluster = Cluster(["OutOfMemoryError", "WorkerCrashedError", {}])
    assert ended(cluster, cell, tmp_path, memory=1000) == (None, 1)
    assert [asked["memory"] for asked in cluster.asked] == [1000 * 2**20, 2000 * 2**20, 2000 * 2**20]
    cluster = Cluster(["OutOfMemoryError", "OutOfMemoryError", {}])
    died, _ = ended(cluster, cell, tmp_path, memory=1000)
    assert len(cluster.asked) == 2
    assert "memory did not suffice" in str(died)


@pytest.mark.parametrize("known", [5000.0, 0.0])
def test_nobody_waits_for_more_memory_than_any_node_has(cell: Cell, tmp_path: Path, known: float) -> None:
    """Twice what is not known is all that a node has."""
    cluster = Cluster(["OutOfMemoryError", {}])
    assert ended(cluster, cell, tmp_path, memory=known) == (None, 0)
    assert cluster.asked[-1]["memory"] == 8 * 2**30


def test_an_error_of_the_cell_or_of_ray_is_not_tried_again(cell: Cell, tmp_path: Path) -> None:
    cluster = Cluster(["RayError", {}])
    died, _ = ended(cluster, cell, tmp_path)
    assert died == "Ray could not run it: RayError"
    assert len(cluster.asked) == 1


def test_a_node_that_cannot_run_cells_gets_no_more(cell: Cell, tmp_path: Path) -> None:
    refusal = {"refused": "no data", "node": "a"}
    cluster = Cluster([refusal, {}], {"a": {"CPU": 1}, "b": {"CPU": 1}})
    assert ended(cluster, cell, tmp_path) == (None, 0)
    assert "label_selector" not in cluster.asked[0]
    assert cluster.asked[1]["label_selector"] == {"ray.io/node-id": "!in(a)"}
    cluster = Cluster([refusal, refusal | {"node": "b"}], {"a": {"CPU": 1}, "b": {"CPU": 1}, "gone": {}})
    with pytest.raises(CannotComplete, match="no node can run the cells: no data"):
        ended(cluster, cell, tmp_path)


def test_as_many_cells_run_as_there_is_room_for(cell: Cell, tmp_path: Path) -> None:
    cluster = Cluster([{}] * 9, {"a": {"CPU": 4, "GPU": 1, "memory": 8 * 2**30}, "b": {"CPU": 6}})
    place = Store(tmp_path)
    assert Ray(place, CPU, cluster).workers == 10
    assert Ray(place, CPU, cluster, most=3).workers == 3
    assert Ray(place, CPU, cluster, gpus=0.25).workers == 4
    executor = Ray(place, CPU, cluster, lambda cell: 3000.0)
    executor.submit(cell)
    assert executor.workers == 2
    cluster.nodes_ = {"b": {"CPU": 0}}
    assert Ray(place, CPU, cluster).workers == 1  # which waits for a node


@pytest.mark.parametrize("gpus", [0.3, 0.1, 1 / 9])
def test_a_gpu_is_cut_into_equal_shares(tmp_path: Path, gpus: float) -> None:
    with pytest.raises(ConfigError, match="1/2 to 1/8"):
        Ray(Store(tmp_path), CPU, Cluster([]), gpus=gpus)


def test_a_cell_that_is_cancelled_is_killed_and_not_heard_of(cell: Cell, tmp_path: Path) -> None:
    cluster = Cluster([{}])
    executor = Ray(Store(tmp_path), CPU, cluster)
    executor.submit(cell)
    executor.cancel(cell)
    assert cluster.cancelled == [0]
    assert executor.running == {}


def test_a_sweep_on_ray_has_the_records_of_one_without_and_says_what_was_lost(tiny: Tiny, tmp_path: Path) -> None:
    specs = [tiny(attack=None), tiny(attack=None, seed=1)]
    store = Store(tmp_path / "ray")
    store.root.mkdir()
    cluster = Cluster(["WorkerCrashedError", "run", "run", *["WorkerCrashedError"] * 3])
    records = sweep(specs, store, CPU, executor=Ray(store, CPU, cluster, most=1))
    plain = sweep(specs, Store(tmp_path / "plain"), CPU, workers=0)
    assert [record.clean for record in records] == [record.clean for record in plain]
    assert [record.resubmitted for record in records] == [1, 0]
    assert [(record.status, record.resubmitted) for record in store.records()].count(("done", 1)) == 1
    (dead,) = sweep([tiny(attack=None, seed=2)], store, CPU, executor=Ray(store, CPU, cluster, most=1))
    assert (dead.status, dead.resubmitted) == ("error", 2)


def test_memory_is_asked_for_by_what_cells_like_it_took(tiny: Tiny) -> None:
    def record(peak: float, status: str = "done", **changes: Any) -> Record:
        return Record("k", "p", tiny(**changes).to_json(), status, peak_mb=peak)

    peaks = Peaks([record(100), record(300, seed=1), record(200, seed=2), record(900, "error"),
                   record(500, defense="strip"), record(50, attack=None)])
    asked = [peaks(planned([tiny(**changes)], CPU)[0]) for changes in
             ({"seed": 7}, {"defense": "strip"}, {"attack": None}, {"defense": "fine_pruning"})]
    assert asked == pytest.approx([390, 650, 65, 0])


@pytest.mark.parametrize("address", [None, "", "auto", "head", "head:", ":6379", "ray://", "head:port"])
def test_a_cluster_has_to_be_named(address: str | None) -> None:
    with pytest.raises(ConfigError, match="needs that of a running cluster"):
        connect(address)


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CannotComplete, match=r"pip install 'sidedoor\[ray\]'"):
        connect("head:6379")


def test_a_cluster_that_does_not_answer_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []

    def init(**options: Any) -> None:
        given.append(options)
        raise ConnectionError("nobody there")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    with pytest.raises(CannotComplete, match="no Ray cluster answers at head:6379: nobody there"):
        connect("head:6379")
    assert given[0]["address"] == "head:6379"


def test_an_errand_is_refused_where_data_or_the_folder_are_missing(cell: Cell, tmp_path: Path) -> None:
    errand = Errand.of(cell, Store(tmp_path, locks="lease"), CPU)
    assert errand.place().locks == "lease"
    errand.check()
    changed = errand.to_json() | {"key": "0" * 16}
    with pytest.raises(CannotComplete, match="differ from those of the machine"):
        Errand.from_json(changed).check()
    with pytest.raises(CannotComplete, match="all machines have to share it"):
        Errand.from_json(errand.to_json() | {"store": str(tmp_path / "elsewhere")}).check()


@pytest.mark.slow
def test_a_worker_runs_a_cell_in_a_process_of_its_own_and_says_what_became_of_it(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_worker, "node", lambda: "here")
    errand = Errand.of(cell, Store(tmp_path), CPU).to_json()
    assert ray_worker.run(errand, 0) == {}
    assert (Store(tmp_path).record(cell.key) or pytest.fail("no record")).status == "done"
    refused = ray_worker.run(errand | {"key": "0" * 16}, 0)
    assert refused["node"] == "here"
    assert "differ" in refused["refused"]
    assert ray_worker.run({"no": "errand"}, 0) == {"died": "its process died with exit code 1"}
