"""A folder of results: atomic, shared by processes, readable after an upgrade, and never too eager to delete."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidedoor.bench.case import load
from sidedoor.bench.machine import Machine
from sidedoor.bench.record import SCHEMA, Record
from sidedoor.bench.spec import cells
from sidedoor.bench.store import Store, size_of
from sidedoor.core import files, leases
from sidedoor.core.terms import Terms
from sidedoor.errors import CannotComplete
from sidedoor.evidence import Calibrated, Finding, Rule, Separation

RECORD = Record(key="k1", planted="p1", spec={"attack": {"name": "badnets", "rate": 0.1}, "augment": ["flip"]},
                status="done", clean=0.9, attack=1.0, intervals={"clean": (0.8, 0.95)}, clean_key="s1",
                evidence=(Calibrated(Finding(3.0, Rule(3.0, 2.0)), (0.5, 1.0), ("s1", "s2"), method="audit"),),
                terms=Terms("C-Acc", "ASR", "R-Acc", "Idle", True), columns={"lpips": None})


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


def test_folders_may_be_given_as_text(store: Store) -> None:
    store.put(RECORD)
    text: Any = str(store.root)
    assert Store(text) == store
    assert Store(text).records() == [RECORD]
    assert Machine(text).root == store.root


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
    other = replace(RECORD, key="k2", clean=None, clean_key=None, columns={"lpips": 0.25},
                    evidence=(Separation(auroc=0.5), Separation(auroc=0.75)),
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
    assert (first["evidence.calibrated.p"], second["evidence.calibrated.p"]) == (1 / 3, None)
    assert (second["evidence.separation.auroc"], second["evidence.separation_2.auroc"]) == (0.5, 0.75)
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


UNKNOWN = "0123456789abcdef"


def left(path: Path) -> Path:
    """A file of a process that died long ago."""
    made(path)
    os.utime(path, (1, 1))
    return path


def test_only_what_no_record_needs_is_removed(store: Store) -> None:
    store.put(RECORD)
    kept = [made(store.folder(key) / "history.json") for key in ("k1", "p1", "s1", "s2")]
    # A checkpoint without a model is one to resume from.
    kept += [made(store.model("p1")), made(store.folder("s2") / "phase-victim.safetensors")]
    # Not ours: by its name no key, or nothing that is written here.
    kept += [made(store.folder("holiday pictures") / "a.jpg"), left(store.root / "else" / ".tmp-0"),
             made(store.folder(UNKNOWN.upper()) / "a"), made(store.folder("p1") / "phase-1.txt")]
    # Maybe being written.
    kept += [made(store.root / "results" / ".tmp-1"), store.root / "results" / "k1.json"]
    stale = [made(store.folder(UNKNOWN) / "model.safetensors", "12345").parent,
             made(store.folder("p1") / "phase-victim.safetensors"), left(store.root / "results" / ".tmp-2"),
             left(store.folder("p1") / ".tmp-3"), left(store.shelf / "net" / ".tmp-4")]
    left(store.folder(UNKNOWN) / ".tmp-5")
    assert sorted(store.unused()) == sorted(stale)
    assert store.remove_unused() == (stale, 5 + 1 + 1 + 1 + 1 + 1)
    assert store.unused() == []
    assert not any(path.exists() for path in stale)
    assert all(path.exists() for path in kept)


def test_nothing_is_removed_through_a_link(store: Store, tmp_path_factory: pytest.TempPathFactory) -> None:
    store.put(RECORD)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    precious = [made(elsewhere / UNKNOWN / "model.safetensors"), left(elsewhere / ".tmp-1"), left(elsewhere / "old")]
    store.folder("").mkdir()
    store.folder(UNKNOWN).symlink_to(elsewhere)
    (store.root / "results" / ".tmp-link").symlink_to(elsewhere / "old")
    assert store.remove_unused() == ([], 0)
    other = Store(tmp_path_factory.mktemp("other"))
    other.put(RECORD)
    (other.root / "artefacts").symlink_to(elsewhere)
    assert other.remove_unused() == ([], 0)
    assert all(path.exists() for path in precious)


def test_only_a_folder_of_results_is_cleaned(store: Store) -> None:
    kept = [made(store.folder(UNKNOWN) / "a"), left(store.root / ".tmp-1")]
    with pytest.raises(CannotComplete, match="no folder of results"):
        store.unused()
    store.put(RECORD)
    broken = write(store, "{", "k2")  # may need the folder
    with pytest.raises(CannotComplete, match=str(broken)):
        store.remove_unused()
    assert all(path.exists() for path in kept)


@forks
def test_nothing_is_removed_while_a_cell_runs(store: Store) -> None:
    store.put(RECORD)
    model = made(store.folder(UNKNOWN) / "model.safetensors")
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=hold, args=(store, held))
    process.start()
    held.wait()
    with pytest.raises(CannotComplete, match=r"something is running in .*k\.lock"):
        store.remove_unused()
    assert model.exists()
    process.kill()
    process.join()
    assert store.remove_unused()[0] == [model.parent]


def test_what_a_dead_process_was_writing_is_tidied_away(store: Store) -> None:
    store.put(RECORD)
    fresh, old = made(store.root / "results" / ".tmp-1"), left(store.folder("k1") / ".tmp-2")
    store.tidy()
    assert (fresh.exists(), old.exists()) == (True, False)


def test_checkpoints_that_a_dead_process_had_no_time_to_drop_are_tidied_away(store: Store) -> None:
    store.put(RECORD)
    store.put(replace(RECORD, key="k2", status="error", clean=None))
    write(store, {"key": "k3"}, "k3")
    names = {"k1": "defense", "k2": "defense", "k3": "defense", "p1": "victim", "p2": "victim", "s1": "plan--surrogate"}
    files = {key: made(store.folder(key) / f"phase-{name}.safetensors") for key, name in names.items()}
    made(store.model("p1"))
    made(store.model("s1"))
    made(store.shelf / "net" / "model.safetensors")
    network, unfinished = (made(store.shelf / name / "phase-net.safetensors") for name in ("net", "other"))
    store.tidy()
    assert not any(file.exists() for file in (files["k1"], files["p1"], network))
    # To resume from: a cell to be run again, one whose record nobody can read, a model in training, a plan to be made
    # again for the next defence.
    assert all(file.exists() for file in (files["k2"], files["k3"], files["p2"], files["s1"], unfinished))


def test_a_checkpoint_may_be_tidied_away_while_it_is_dropped(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, there = store.root / "phase-gone.safetensors", made(store.root / "phase-there.safetensors")
    monkeypatch.setattr(files, "checkpoints_in", lambda folder, plans: [gone, there])
    files.drop_checkpoints(store.root)
    assert not there.exists()


@pytest.mark.parametrize(("change", "said"), [
    ({"clean": "0.9"}, "clean is '0.9'; expected a number or null"), ({"status": None}, "status is None"),
    ({"clean": True}, "clean is True"), ({"columns": {"psnr": [1]}}, r"columns.psnr is \[1\]"),
    ({"planted": "../../home"}, "planted is '../../home', which cannot be the name of a file"),
    ({"clean_key": "/etc/passwd"}, "cannot be the name of a file"), ({"key": "k2"}, "it is the record of k2"),
    ({"spec": []}, "spec is"), ({"spec": {"attack": "badnets"}}, "spec.attack is 'badnets'"),
    ({"spec": {"attack": {}}}, "spec.attack has no name"), ({"spec": {"seed": "one"}}, "spec.seed is 'one'"),
    ({"spec": {"augment": [None]}}, "spec.augment is a list with null in it"), ({"threads": 1.5}, "threads is 1.5"),
    ({"intervals": {"clean": [0.1]}}, "intervals.clean has 1 entries; expected 2"), ({"schema": "2"}, "schema is '2'"),
    ({"evidence": {}}, "evidence"), ({"evidence": ["x"]}, "evidence is 'x'"), ({"evidence": [{}]}, "has no type"),
    ({"evidence": [{"type": "verdict"}]}, "has no statistic"), ({"evidence": [{"type": ["x"]}]}, "evidence.type is"),
    ({"evidence": [{"type": "finding", "score": {}}]}, "score is {}"), ({"terms": {"clean": 3}}, "terms.clean is 3"),
    ({"evidence": [{"type": "finding", "score": 1, "exhibits": [3]}]}, r"exhibits\[0\] is 3"),
    ({"evidence": [{"type": "calibrated", "finding": {"score": 1, "paper": [1]}}]}, "finding.paper is"),
    ({"error": "\ud800"}, "surrogates"), ({"seconds": 10**200}, "beyond"), ({"schema": 1, "spec": 3}, "spec is 3"),
    ({"schema": 1, "audit": {"score": 1}}, "threshold"), ({"schema": 1, "audit": 3}, "TypeError"),
    ({"schema": 1, "detectors": {"new": 1}}, "TypeError"), ({"schema": 1, "sibling": 3}, "clean_means is 3"),
])
def test_what_is_wrong_with_a_record_is_said_and_the_others_are_read(store: Store, change: dict[str, Any], said: str,
                                                                      caplog: pytest.LogCaptureFixture) -> None:
    path = write(store, RECORD.to_json() | change)
    with pytest.raises(CannotComplete, match=f"cannot read the record {path}: .*{said}"):
        store.records()
    store.put(replace(RECORD, key="k2"))
    lenient = store.lenient()
    assert [record.key for record in lenient.records()] == [record.key for record in lenient.records()] == ["k2"]
    assert lenient.left_out is not None
    assert len(lenient.left_out) == 1
    assert re.search(said, lenient.left_out[0])
    assert caplog.messages == [f"left out: {lenient.left_out[0]}"]


@pytest.mark.parametrize(("name", "array"), [
    ("y", np.zeros(3)), ("y", np.zeros((3, 1), int)), ("clean", np.zeros(4, np.float32)), ("clean", np.array(["a"])),
    ("attack", np.zeros(3)), ("attack", np.zeros((1, 4))), ("grid_stamped", np.zeros((2, 1, 4, 5), np.uint8)),
    ("grid_stamped", np.zeros((2, 1, 4, 4))), ("grid_door", np.zeros(1, int)), ("calibration", np.array([1e200])),
    ("images_truth", np.zeros((0, 3, 4, 4), np.uint8)), ("suspicious", np.zeros(4)), ("filter_score", np.zeros(4)),
])
def test_arrays_that_do_not_fit_together_are_refused(store: Store, name: str, array: np.ndarray) -> None:
    good = {"y": np.zeros(3, int), "clean": np.array([1, np.nan, np.inf], np.float32), "other": np.zeros(7),
            "grid_clean": np.zeros((2, 1, 4, 4), np.uint8)}
    store.put_arrays("k1", good)
    assert store.arrays("k1").keys() == good.keys()
    store.put_arrays("k1", good | {name: array})
    with pytest.raises(CannotComplete, match=rf"arrays\.npz is damaged: {name} (of type|has numbers|is there without)"):
        store.arrays("k1")


@pytest.mark.parametrize("content", ["", "[]", "3", '{"victim": 3}', '{"victim": [3]}', '{"victim": [{"loss": 1}]}',
                                     '{"victim": [{"epoch": null}]}', '{"victim": [{"epoch": 1, "loss": "x"}]}',
                                     '{"victim": [{"epoch": NaN}]}', "[" * 10**5])
def test_a_damaged_history_is_refused(store: Store, content: str) -> None:
    assert store.history("k1") == {}
    made(store.folder("k1") / "history.json", '{"victim": [{"epoch": 1, "loss": 0.5, "valid": null}], "tune": []}')
    assert store.history("k1") == {"victim": [{"epoch": 1, "loss": 0.5, "valid": None}]}
    made(store.folder("k1") / "history.json", content)
    with pytest.raises(CannotComplete, match=r"history\.json is damaged: .*delete it"):
        store.history("k1")
    lenient = store.lenient()
    assert lenient.history("k1") == {}
    assert lenient.left_out is not None
    assert "history.json is damaged" in lenient.left_out[0]


def test_sizes_are_those_of_all_files_below(tmp_path: Path) -> None:
    made(tmp_path / "a" / "b", "123")
    made(tmp_path / "a" / "c" / "d", "45")
    assert size_of(tmp_path / "a") == 5
    assert size_of(tmp_path / "a" / "b") == 3


SCHEMA_1 = {"schema": 1, "key": "k1", "planted": "p1", "spec": {"defense": {"name": "neural_cleanse"}},
            "status": "done", "sibling": {"clean": 0.9}, "reference": "s1", "dropped_since": 3}


def test_schema_1_is_read_into_the_fields_of_today(store: Store) -> None:
    audit = {"score": 3.0, "threshold": 2.0, "flagged": True, "suspected": 4, "references": [0.5, 3.5],
             "calibrated": False, "rank": 0.5, "models": ["s1", "s2"]}
    write(store, SCHEMA_1 | {"audit": audit, "detectors": {}})
    record = store.records()[0]
    assert (record.clean_means, record.clean_key, record.separation) == ({"clean": 0.9}, "s1", None)
    assert record.audit is not None
    assert record.audit.method == "neural_cleanse"
    assert (record.audit.finding.paper, record.audit.finding.suspected) == (Rule(3.0, 2.0), (4,))
    assert (record.audit.references, record.audit.models, record.audit.p) == ((0.5, 3.5), ("s1", "s2"), 2 / 3)
    store.put(record)
    written = json.loads((store.root / "results" / "k1.json").read_text())
    assert written["schema"] == SCHEMA == 2
    assert not {"sibling", "reference", "audit", "detectors"} & written.keys()
    assert store.record("k1") == record


def test_detectors_of_schema_1_are_separations(store: Store) -> None:
    write(store, SCHEMA_1 | {"audit": {}, "detectors": {"auroc": 0.9, "n_positive": 36, "removed_clean": 0.1}})
    assert store.records()[0].evidence == (
        Separation(auroc=0.9, n_positive=36, removed_clean=0.1, method="neural_cleanse"),)


def test_evidence_that_cannot_be_is_no_record(store: Store) -> None:
    write(store, RECORD.to_json() | {"evidence": [{"type": "separation", "auroc": 1.5}]})
    with pytest.raises(CannotComplete, match=r"k1\.json: .*Separation\.auroc = 1\.5 given"):
        store.records()


PUBLISHED = Path(__file__).parents[2] / "docs" / "results" / "poison_ink.jsonl"


def test_published_records_keep_their_figures_and_keys() -> None:
    lines = [json.loads(line) for line in PUBLISHED.read_text(encoding="utf-8").splitlines()]
    assert len(lines) >= 370
    for line in lines:
        record = Record.from_json(line)
        assert record.to_json()["clean_means"] == line.get("sibling", line.get("clean_means"))
        for name in ("key", "planted", "status", "clean", "attack", "recovered", "idle", "columns", "samples"):
            assert getattr(record, name) == line[name]
        given = {name: value for name, value in record.spec.items() if value is not None}
        assert cells(given)[0].key(record.data) == record.key


def test_with_leases_nothing_is_removed_while_a_cell_runs_and_nothing_is_run_while_files_are_removed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = Store(store.root, locks="lease")
    shared.put(RECORD)
    model = made(shared.folder(UNKNOWN) / "model.safetensors")
    with shared.lock("k"):
        assert [file.name for file in (store.root / "locks").iterdir()] == ["k.lease"]
        for each in (shared, store):  # whoever cleans need not know which locks the others have
            with pytest.raises(CannotComplete, match=r"process \d+ on .* holds the lease"):
                each.remove_unused()
    monkeypatch.setattr(leases, "POLL", 0.001)
    seen: list[bool] = []
    with shared.alone(store.root / "locks" / "clean.lock") as cleaning:
        waiting = threading.Thread(target=lambda: seen.append(entered(shared)))
        waiting.start()
        waiting.join(0.1)
        assert seen == []
        assert not cleaning.lost
    waiting.join()
    assert seen == [True]
    assert shared.remove_unused()[0] == [model.parent]


def entered(store: Store) -> bool:
    with store.lock("k"):
        return True


def test_the_networks_of_the_shelf_are_made_under_the_locks_of_the_store(store: Store, tiny: Any) -> None:
    for locks, name in (("flock", "lock"), ("lease", "lock.lease")):
        case = load(tiny(), Store(store.root, locks=locks), Machine(device="cpu"))  # type: ignore[arg-type]
        for shelf, folder in ((case.run.shelf, "net"), (case.shelf("shadows-"), "shadows-net")):
            with shelf.alone("net"):
                assert [file.name for file in (store.shelf / folder).iterdir()] == [name]
            (store.shelf / folder / name).unlink(missing_ok=True)
