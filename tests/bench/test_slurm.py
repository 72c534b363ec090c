"""Cells as jobs: one for each model, what became of each, and that a job has no state but the store."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sidedoor.bench.executors.errand import Errand
from sidedoor.bench.executors.slurm import AGAIN, Part, Slurm, submitter
from sidedoor.bench.machine import Machine
from sidedoor.bench.plan import planned
from sidedoor.bench.spec import Spec
from sidedoor.bench.store import Store
from sidedoor.bench.sweep import sweep
from sidedoor.errors import CannotComplete, ConfigError

CPU = Machine(device="cpu")
Tiny = Callable[..., Spec]


@dataclass
class Job:
    """A job that ends after it was asked so many times, by then run or not."""

    work: Callable[[], object]
    looks: int
    died: Exception | None = None
    job_id: str = "7_0"

    @property
    def paths(self) -> SimpleNamespace:
        return SimpleNamespace(stderr="7_0.err")

    def done(self) -> bool:
        self.looks -= 1
        if self.looks == 0 and self.died is None:
            self.work()
        return self.looks <= 0

    def exception(self) -> Exception | None:
        return self.died


@dataclass
class Submitter:
    """What submitit's executor is to the sweep."""

    deaths: dict[int, Exception]
    run: bool = True

    def map_array(self, function: Any, errands: list[Any], timeouts: list[Any]) -> list[Job]:
        self.errands = json.loads(json.dumps(errands))
        return [Job(lambda part=part: self.do(part), 1 + n, self.deaths.get(n)) for n, part in enumerate(self.errands)]

    def do(self, part: list[dict[str, Any]]) -> None:
        for errand in part if self.run else ():
            Errand.from_json(errand).run()


def test_a_job_is_a_model_and_its_records_come_when_it_ends(tiny: Tiny, tmp_path: Path) -> None:
    specs = [tiny(attack=None, seed=seed, defense=defense) for defense in (None, "fine_pruning") for seed in (0, 1)]
    slept: list[float] = []
    store, jobs = Store(tmp_path / "jobs"), Submitter({})
    records = sweep(specs, store, CPU, executor=Slurm(store, CPU, jobs, sleep=slept.append))
    assert [len(part) for part in jobs.errands] == [2, 2]
    assert [record.key for record in records] == [cell.key for cell in planned(specs, CPU)]
    assert {record.status for record in records} == {"done"}
    assert slept == []  # each look finds one that has ended


def test_what_a_dead_job_has_done_counts_and_the_rest_says_why_it_is_missing(tiny: Tiny, tmp_path: Path) -> None:
    specs = [tiny(attack=None), tiny(attack=None, defense="fine_pruning")]
    store = Store(tmp_path)
    sweep(specs[:1], store, CPU, workers=0)
    cells, slept = planned(specs, CPU), list[float]()
    death = RuntimeError("Traceback\n  line\nMemoryError: no more\n----")
    executor = Slurm(store, CPU, Submitter({0: death}), sleep=slept.append)
    records = list(executor.run(cells))
    assert [record.status for record in records] == ["done", "error"]
    assert records[1].error == "job 7_0 ended: MemoryError: no more; its log is in 7_0.err"
    assert store.record(cells[1].key) == records[1]
    silent = list(Slurm(store, CPU, Submitter({}, run=False), sleep=slept.append).run(planned([tiny(seed=9)], CPU)))
    assert silent[0].error == "job 7_0 ended without a record; its log is in 7_0.err"


def test_it_waits_while_no_job_has_ended(tiny: Tiny, tmp_path: Path) -> None:
    slept: list[float] = []
    executor = Slurm(Store(tmp_path), CPU, Submitter({}, run=False), sleep=slept.append)
    executor.submitter.map_array = lambda *given: [Job(lambda: None, 3)]
    assert len(list(executor.run(planned([tiny()], CPU)))) == 1
    assert slept == [5.0, 5.0]


def test_a_job_has_no_state_and_is_submitted_again_as_it_was(tiny: Tiny, tmp_path: Path) -> None:
    errand = Errand.of(planned([tiny()], CPU)[0], Store(tmp_path), CPU).to_json()
    again = Part().checkpoint([errand], 5.0)
    assert isinstance(again.function, Part)
    assert vars(again.function) == {}
    assert (again.args, again.kwargs) == (([errand], 5.0), {})


def test_parameters_reach_the_cluster_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    made = submitter(tmp_path, {"cluster": "debug", "partition": "gpu", "mem_gb": 4}, 10)
    assert made.cluster == "debug"
    with pytest.raises(CannotComplete, match="cannot submit jobs to slurm"):
        submitter(tmp_path, {}, None)
    with pytest.raises(ConfigError, match="--slurm cluster=local partitoin=gpu given"):
        submitter(tmp_path, {"cluster": "local", "partitoin": "gpu"}, None)
    assert AGAIN == 3


def test_without_submitit_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(CannotComplete, match=r"pip install 'sidedoor\[slurm\]'"):
        submitter(tmp_path, {}, None)
