"""A folder of results: atomic, shared by processes, readable after an upgrade, and never too eager to delete."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidedoor.bench.record import SCHEMA, Record
from sidedoor.bench.store import Store, size_of
from sidedoor.core import files
from sidedoor.errors import CannotComplete

RECORD = Record(key="k1", planted="p1", spec={"attack": {"name": "badnets", "rate": 0.1}, "augment": ["flip"]},
                status="done", clean=0.9, attack=1.0, intervals={"clean": (0.8, 0.95)}, reference="s1",
                audit={"models": ["s1", "s2"], "flagged": True, "suspected": None}, columns={"lpips": None})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_a_record_is_read_back_as_it_was(store: Store) -> None:
    assert store.record("k1") is None
    store.put(RECORD)
    store.put(replace(RECORD, key="k2", status="error", error="why"))
    assert store.record("k1") == RECORD
    assert [r.key for r in store.records()] == ["k1", "k2"]
    store.put(replace(RECORD, clean=0.5))
    assert (store.record("k1") or RECORD).clean == 0.5


def test_arrays_are_read_back_as_they_were(store: Store) -> None:
    assert store.arrays("k1") == {}
    given = {"y": np.arange(3), "names": np.array(["a", "Å"]), "x": np.ones((2, 3), np.float32)}
    store.put_arrays("k1", given)
    found = store.arrays("k1")
    assert found.keys() == given.keys()
    assert all(np.array_equal(found[k], v) and found[k].dtype == v.dtype for k, v in given.items())


def test_a_write_that_fails_leaves_the_old_record_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(RECORD)

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(CannotComplete, match="No space left"):
        store.put(replace(RECORD, clean=0.5))
    monkeypatch.undo()
    assert store.record("k1") == RECORD
    assert [p.name for p in (store.root / "results").iterdir()] == ["k1.json"]


def test_nan_is_refused_and_the_old_record_stays(store: Store) -> None:
    store.put(RECORD)
    with pytest.raises(ValueError, match="JSON"):
        store.put(replace(RECORD, clean=float("nan")))
    assert store.record("k1") == RECORD


# Only a file is touched in the children, so threads of the parent do not matter.
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def count_alone(store: Store, rounds: int) -> None:
    """Read, wait for the other to do the same, and write: loses counts unless it is alone."""
    path = store.root / "count"
    for _ in range(rounds):
        with store.lock("k"):
            value = int(path.read_text())
            os.sched_yield()
            path.write_text(str(value + 1))


@forks
def test_two_processes_are_never_in_a_lock_together(store: Store) -> None:
    (store.root / "count").write_text("0")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=count_alone, args=(store, 300)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (store.root / "count").read_text() == "600"


def hold(store: Store, held: Any) -> None:
    with store.lock("k"):
        held.set()
        signal.pause()


@forks
def test_a_lock_dies_with_its_holder_and_keys_are_apart(store: Store) -> None:
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=hold, args=(store, held))
    process.start()
    held.wait()
    with store.lock("another"):
        pass
    process.kill()
    with store.lock("k"):
        process.join()
    assert process.exitcode == -9


def write(store: Store, value: Any, name: str = "k1") -> Path:
    path = store.root / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_an_older_schema_loads_with_defaults(store: Store) -> None:
    write(store, {"schema": 0, "key": "k1", "planted": "p1", "spec": {}, "status": "done", "dropped_since": 3})
    assert store.record("k1") == Record(key="k1", planted="p1", spec={}, status="done")


def test_a_newer_schema_is_refused(store: Store) -> None:
    write(store, RECORD.to_json() | {"schema": SCHEMA + 1})
    with pytest.raises(CannotComplete, match=f"schema {SCHEMA + 1}, this sidedoor knows {SCHEMA}; upgrade"):
        store.record("k1")


@pytest.mark.parametrize("content", ["{", "", "[]", "3", '{"key": "k1"}'])
def test_what_is_no_record_is_named_with_what_to_do(store: Store, content: str) -> None:
    path = write(store, content)
    with pytest.raises(CannotComplete, match=f"cannot read the record {path}.*delete it to run its cell again"):
        store.records()


def test_a_folder_without_results_says_what_to_run(store: Store) -> None:
    with pytest.raises(CannotComplete, match="run `sidedoor run` or `sweep` first"):
        store.records()


def test_the_compiled_table_equals_the_records(store: Store) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    other = replace(RECORD, key="k2", clean=None, reference=None, columns={"lpips": 0.25}, audit={},
                    spec={"attack": None, "augment": [], "seed": 3})
    store.put(RECORD)
    store.put(other)
    table = parquet.read_table(store.compile())
    first, second = table.to_pylist()
    assert (first["key"], first["clean"], first["attack"], first["spec.attack.rate"]) == ("k1", 0.9, 1.0, 0.1)
    assert (second["key"], second["clean"], second["spec.attack.name"], second["spec.seed"]) == ("k2", None, None, 3)
    assert (first["columns.lpips"], second["columns.lpips"]) == (None, 0.25)
    assert json.loads(first["intervals.clean"]) == [0.8, 0.95]
    assert json.loads(first["spec.augment"]) == ["flip"]
    assert (first["audit.flagged"], second["audit.flagged"]) == (True, None)
    assert store.record("k2") == other


def test_a_parameter_of_several_types_becomes_text_and_numbers_stay_numbers(store: Store) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for i, value in enumerate((1, 2.5, None)):
        store.put(replace(RECORD, key=f"n{i}", spec={"a": value, "b": value if i else "auto"}))
    rows = parquet.read_table(store.compile()).to_pylist()
    assert [row["spec.a"] for row in rows] == [1.0, 2.5, None]
    assert [row["spec.b"] for row in rows] == ["auto", "2.5", None]


def made(path: Path, content: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_only_what_no_record_needs_is_removed(store: Store) -> None:
    store.put(RECORD)
    kept = [made(store.folder(key) / "history.json") for key in ("k1", "p1", "s1", "s2")]
    # A checkpoint without a model is one to resume from.
    kept += [made(store.model("p1")), made(store.folder("s2") / "phase-victim.safetensors")]
    kept += [store.root / "results" / "k1.json"]
    stale = [made(store.folder("unknown") / "model.safetensors", "12345").parent,
             made(store.folder("p1") / "phase-victim.safetensors"), made(store.root / "results" / ".tmp-1.json")]
    made(store.folder("unknown") / ".tmp-2")
    assert sorted(store.unused()) == sorted(stale)
    assert store.remove(store.unused()) == 5 + 1 + 1 + 1
    assert store.unused() == []
    assert not any(path.exists() for path in stale)
    assert all(path.exists() for path in kept)


def test_sizes_are_those_of_all_files_below(tmp_path: Path) -> None:
    made(tmp_path / "a" / "b", "123")
    made(tmp_path / "a" / "c" / "d", "45")
    assert size_of(tmp_path / "a") == 5
    assert size_of(tmp_path / "a" / "b") == 3
