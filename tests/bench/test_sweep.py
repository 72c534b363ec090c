"""Many cells: the same numbers however they are run, and nothing lost, doubled or left running however they end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidedoor import registry, zoo
from sidedoor.bench.executors.base import Cell
from sidedoor.bench.executors.processes import Processes
from sidedoor.bench.machine import Machine
from sidedoor.bench.plan import check_networks, planned
from sidedoor.bench.record import Record
from sidedoor.bench.shared import mark
from sidedoor.bench.spec import Spec, grid, read
from sidedoor.bench.store import Store
from sidedoor.bench.sweep import POLL, _Queue, sweep
from sidedoor.core.checkpoint import load_state
from sidedoor.core.progress import Lines
from sidedoor.data.base import Splits
from sidedoor.engine import Recipe
from sidedoor.errors import CannotComplete, ConfigError

Tiny = Callable[..., Spec]
CPU = Machine(device="cpu")
PATIENCE = 120.0

PLUGIN = '''
import os, signal, time
from dataclasses import dataclass
from pathlib import Path
from sidedoor.attacks.poisoning.badnets import BadNets

@dataclass(frozen=True)
class Staged(BadNets):
    """BadNets that dies when told to, and waits as long as a file exists."""

    act: str = ""
    gate: str = ""

    def plan(self, train, task, surrogate, run):
        if self.act == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.act == "exit":
            os._exit(3)
        while self.gate and Path(self.gate).exists():
            Path(self.gate + ".reached").touch()
            time.sleep(0.01)
        return super().plan(train, task, surrogate, run)
'''

GRID = """
data = {{ name = "toy", train = 400, test = 80 }}
model = {{ name = "small_cnn", width = 8 }}
defenses = ["fine_pruning"]
recipe = {{ epochs = 3, batch = 16 }}

[grid]
attack = [{{ name = "badnets", rate = 0.2 }}, {{ name = "staged", rate = 0.2, gate = {gate} }}]
seed = [0, 1]
"""


def forget_names() -> None:
    """Let the registry look for installed packages again."""
    registry.entries.cache_clear()
    registry._by_name.cache_clear()


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that holds an installed package with the attack `staged`."""
    folder = tmp_path / "site"
    described = folder / "staged-1.0.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: staged\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text("[sidedoor.attack]\nstaged = staged_plugin:Staged\n")
    (folder / "staged_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(folder))
    forget_names()
    yield folder
    forget_names()
    sys.modules.pop("staged_plugin", None)


def until(fact: Callable[[], bool], what: str) -> None:
    """Watch until a fact holds."""
    end = time.monotonic() + PATIENCE
    while not fact():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)


def numbers(records: list[Record]) -> list[dict[str, Any]]:
    """All of records but what two runs cannot have in common."""
    return [replace(r, seconds=0.0, timing={}, peak_mb=0.0).to_json() for r in records]


def trained(store: Store) -> dict[str, int]:
    """Finished models with the moment each was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in store.root.glob("artefacts/*/model.safetensors")}


def test_the_table_does_not_depend_on_the_number_of_workers(tiny: Tiny, tmp_path: Path) -> None:
    audit = {"name": "neural_cleanse", "epochs": 4, "samples": 40, "batch": 8, "lr": 0.5, "success": 0.5}
    specs = [tiny(defense=defense) for defense in (None, "fine_pruning", audit)] + [tiny(seed=1)]
    tables = [numbers(sweep(specs, Store(tmp_path / str(n)), CPU, workers=n)) for n in (0, 1, 2)]
    assert tables[0] == tables[1] == tables[2]
    assert [t["key"] for t in tables[0]] == [cell.key for cell in planned(specs, CPU)]
    assert {t["status"] for t in tables[0]} == {"done"}
    assert {t["threads"] for t in tables[0]} == {1}


def test_what_a_cell_does_is_shown_by_who_started_it(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep([tiny()], Store(tmp_path), replace(CPU, progress=Lines(every=0)), workers=1)
    assert "badnets, none: victim: " in capsys.readouterr().err
    sweep([tiny(), tiny(seed=1)], Store(tmp_path), replace(CPU, progress=Lines(every=0)), workers=1)
    said = capsys.readouterr().err
    # By what varies; and time is estimated from what is run now.
    assert said.startswith("cells (1 known): 0/1\n")
    assert "\nseed 1: victim: " in said
    assert "cells (1 known): 1/1, 0 s left, seed 1: done" in said


def test_a_second_sweep_runs_nothing_again(tiny: Tiny, tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = sweep([tiny()], store, CPU, workers=0)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert sweep([tiny(), tiny()], store, CPU, workers=1) == first
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == before


def test_cells_that_die_leave_the_others_alone(tiny: Tiny, plugin: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "out")
    deaths = [tiny(attack={"name": "staged", "act": act}) for act in ("kill", "exit")]
    diverging = tiny(recipe=Recipe(lr=1e30, epochs=1, batch=32))
    killed, done, left, diverged = sweep([deaths[0], tiny(), deaths[1], diverging], store, CPU, workers=2)
    assert (killed.status, left.status) == ("error", "error")
    assert str(killed.error).startswith("the process died with exit code -9")
    assert str(left.error).startswith("the process died with exit code 3")
    assert "the loss became nan" in str(diverged.error)
    assert (done.status, done.error) == ("done", None)
    assert len(store.records()) == 4


def test_a_cell_that_takes_too_long_is_given_up_alone(tiny: Tiny, plugin: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "out")
    gate = tmp_path / "gate"
    gate.touch()
    endless = tiny(attack={"name": "staged", "gate": str(gate), "rate": 0.2})
    sweep([tiny()], store, CPU, workers=0)
    late, done = sweep([endless, tiny(defense="shrink_pad")], store, CPU, workers=2, timeout=8)
    assert (late.status, late.error) == ("timeout", "gave up after 8 s")
    assert done.status == "done"
    gate.unlink()
    (again,) = sweep([endless], store, CPU, workers=0)
    assert (again.status, again.error) == ("done", None)


@pytest.mark.parametrize(("workers", "timeout"), [(0, 5.0), (1, 0.0), (1, -1.0)])
def test_a_timeout_needs_a_process_to_end(tiny: Tiny, tmp_path: Path, workers: int, timeout: float) -> None:
    with pytest.raises(ConfigError, match="only a process of its own can be given up"):
        sweep([tiny()], Store(tmp_path), CPU, workers=workers, timeout=timeout)


def test_missing_data_stop_a_sweep_before_its_first_cell(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(CannotComplete, match="does not exist"):
        sweep([tiny(), tiny(data={"name": "folder", "path": "/nowhere/at/all"})], Store(tmp_path), CPU, workers=0)
    assert list(tmp_path.iterdir()) == []


def test_a_cell_waits_only_while_another_trains_a_model_it_needs(tiny: Tiny, tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second, other = (planned([tiny(seed=seed, defense=d)], CPU)[0]
                            for seed, d in ((0, None), (0, "strip"), (1, None)))
    queue = _Queue(deque([first, second, other]), store)
    assert [queue.ready(), queue.ready(), queue.ready()] == [first, other, None]
    assert queue.patience() == POLL
    for key in first.trains:
        store.folder(key).mkdir(parents=True)
        store.model(key).touch()
    assert queue.ready() == second
    assert queue.patience() is None
    assert list(queue.running) == [first.key, other.key, second.key]


def test_a_cell_waits_while_another_makes_networks_of_the_shelf(tiny: Tiny, tmp_path: Path) -> None:
    """Two rates have models of their own, and the networks that draw the ink in common; another seed has its own."""
    store = Store(tmp_path)
    cells = planned([tiny(attack={"name": "poison_ink", "rate": rate}, seed=seed)
                     for rate, seed in ((0.1, 0), (0.2, 0), (0.1, 1))], CPU)
    first, second, other = (replace(cell, trains=frozenset([cell.model])) for cell in cells)
    queue = _Queue(deque([first, second, other]), store)
    assert [queue.ready(), queue.ready(), queue.ready()] == [first, other, None]
    (name,) = first.shares
    assert first.shares == second.shares != other.shares
    mark(store, name)
    assert queue.ready() == second


@pytest.mark.parametrize("scored", [True, False])
def test_whoever_waits_for_what_a_cell_makes_goes_on_when_that_has_ended(tmp_path: Path, tiny: Tiny,
                                                                         scored: bool) -> None:
    spec = tiny()
    cells = [Cell(spec, str(n), f"m{n}", frozenset(["clean"]), frozenset(["net"])) for n in range(4)]
    queue = _Queue(deque(cells), Store(tmp_path))
    assert [queue.ready(), queue.ready()] == [cells[0], None]
    queue.ended(cells[0], scored)
    assert queue.ready() == cells[1]
    # Made, all others may start; else the next one makes it, alone.
    assert [queue.ready(), queue.ready()] == ([cells[2], cells[3]] if scored else [None, None])
    assert bool(queue)


def test_in_whatever_order_cells_end_all_are_run_once_and_none_beside_one_that_makes_the_same(tmp_path: Path,
                                                                                            tiny: Tiny) -> None:
    rng, spec = random.Random(3), tiny()
    for workers in (1, 3, 10):
        cells = [Cell(spec, f"{n}", f"m{n % 5}", frozenset([f"m{n % 5}", f"c{n % 2}"]),
                      frozenset([f"net{n % 3}"] * (n % 4 > 0))) for n in range(60)]
        queue, run, made = _Queue(deque(cells), Store(tmp_path)), [], set[str]()
        while queue:
            while len(queue.running) < workers and (cell := queue.ready()) is not None:
                making = [need for other, _ in queue.running.values() if other != cell for need in other.needs - made]
                assert not cell.needs & set(making)
                run.append(cell.key)
            done = rng.choice([cell for cell, _ in queue.running.values()])
            scored = rng.random() < 0.7
            made |= done.needs if scored else set()
            queue.ended(done, scored)
        assert sorted(run) == sorted(cell.key for cell in cells)


def test_only_an_audit_needs_the_clean_reference_models(tiny: Tiny) -> None:
    siblings = {seed: planned(tiny(seed=seed).clean_models(), CPU)[0].key for seed in (0, 1)}
    assert siblings[1] in planned([tiny(defense="neural_cleanse")], CPU)[0].trains
    assert {siblings[0]} < planned([tiny(defense="strip")], CPU)[0].trains
    assert siblings[1] not in planned([tiny(defense="strip")], CPU)[0].trains


def test_a_cell_that_starts_is_given_its_time_and_not_more(tiny: Tiny, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    cell = planned([tiny()], CPU)[0]
    queue = _Queue(deque([cell]), Store(tmp_path), timeout=5.0)
    queue.ready()
    assert (queue.patience(), queue.late()) == (5.0, [])
    now = 104.0
    assert (queue.patience(), queue.late()) == (1.0, [])
    now = 105.5
    assert (queue.patience(), queue.late()) == (0, [cell])


@pytest.mark.parametrize("workers", [0, 1])
def test_methods_that_do_not_suit_each_other_are_recorded_and_not_run(tiny: Tiny, tmp_path: Path, workers: int) -> None:
    store = Store(tmp_path)
    unsuited = [tiny(attack="wanet", defense=defense) for defense in ("abl", "spectral_signatures")]
    records = sweep([*unsuited, *unsuited], store, CPU, workers=workers)
    assert [record.key for record in records] == [cell.key for cell in planned(unsuited, CPU)]
    assert {record.status for record in records} == {"not applicable"}
    assert all("the attacker trains the model and hands over no data" in str(record.error) for record in records)
    assert all(record.finished and not record.scored for record in records)
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_a_cell_that_is_cancelled_ends_and_is_not_among_the_finished(tiny: Tiny, plugin: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    cell = planned([tiny(attack={"name": "staged", "gate": str(gate), "rate": 0.2})], CPU)[0]
    executor = Processes(Store(tmp_path / "out"), CPU, 1)
    executor.submit(cell)
    until(Path(f"{gate}.reached").exists, "the cell to start")
    executor.cancel(cell)
    assert executor.finished(0) == []
    assert Store(tmp_path / "out").record(cell.key) is None


def started(arguments: list[str], plugin: Path) -> subprocess.Popen[str]:
    """A Python process in a session of its own; its stderr ends when it and all its descendants have."""
    path = os.pathsep.join([str(plugin), *filter(None, [os.environ.get("PYTHONPATH")])])
    # Whoever runs the tests in the background ignores Ctrl-C, and whatever is started would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, *arguments], env=environment, start_new_session=True,
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_sweep_that_is_killed_again_and_again_loses_and_doubles_nothing(plugin: Path, tmp_path: Path) -> None:
    gate, file, store = tmp_path / "gate", tmp_path / "grid.toml", Store(tmp_path / "out")
    file.write_text(GRID.format(gate=json.dumps(str(gate))))
    command = ["-m", "sidedoor", "sweep", str(file), "--workers", "2", "--device", "cpu", "--out", str(store.root)]
    seen: dict[str, int] = {}
    rng = random.Random(7)

    def interrupt(when: Callable[[], bool], number: int) -> tuple[int, str]:
        """Start the sweep and end it when a fact holds, as a terminal does; (exit code, what it said)."""
        process = started(command, plugin)
        try:
            until(lambda: when() or process.poll() is not None, "the sweep to get so far")
            assert process.poll() is None, process.communicate()[1]
            if number != signal.SIGKILL:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
            # Returns once no descendant holds the pipe: a cell that went on would wait at the gate for ever.
            said = process.communicate(timeout=PATIENCE / 4)[1]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        now = trained(store)
        assert {key: now[key] for key in seen} == seen
        seen.update(now)
        return process.returncode, said

    reached = Path(f"{gate}.reached")
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130), (signal.SIGTERM, 130)):
        gate.touch()
        found, said = interrupt(reached.exists, number)
        assert found == code
        assert ("the same command resumes where it stopped" in said) == (code == 130)
        reached.unlink()
        gate.unlink()
    files = len(list(store.root.rglob("*.*"))) + rng.randint(1, 6)
    found, _ = interrupt(lambda: len(list(store.root.rglob("*.*"))) >= files, signal.SIGKILL)
    assert found == -signal.SIGKILL
    specs = grid(read(file))
    resumed = sweep(specs, store, CPU, workers=2)
    assert {key: trained(store)[key] for key in seen} == seen
    assert len(seen) >= 2
    assert len(store.records()) == len(specs) == 8
    assert numbers(resumed) == numbers(sweep(specs, Store(tmp_path / "uninterrupted"), CPU, workers=0))
    assert {record.status for record in resumed} == {"done"}


DRIVER = """
import sys
from pathlib import Path
from sidedoor import engine
from sidedoor.bench.machine import Machine
from sidedoor.bench.plan import planned
from sidedoor.bench.spec import cells, read
from sidedoor.bench.store import Store
from sidedoor.bench.sweep import sweep

engine.CHECKPOINT_SECONDS = 0.0
sweep(cells(read(Path(sys.argv[1]))), Store(Path(sys.argv[2])), Machine(device="cpu"), workers=0)
"""


def test_a_training_that_is_killed_goes_on_from_its_checkpoint(tiny: Tiny, plugin: Path, tmp_path: Path) -> None:
    file, script, store = tmp_path / "spec.toml", tmp_path / "driver.py", Store(tmp_path / "out")
    file.write_text('data = { name = "toy", train = 600, test = 80 }\nmodel = { name = "small_cnn", width = 8 }\n'
                    'augment = ["crop"]\nrecipe = { epochs = 8, batch = 16 }\n')
    script.write_text(DRIVER)
    spec = tiny(attack=None, augment=("crop",), recipe=Recipe(epochs=8, batch=16))
    planted = planned([spec.attack_half()], CPU)[0].key
    checkpoint = store.folder(planted) / "phase-victim.safetensors"
    process = started([str(script), str(file), str(store.root)], plugin)
    until(lambda: checkpoint.exists() or process.poll() is not None, "a checkpoint")
    process.kill()
    assert process.communicate(timeout=PATIENCE)[1] == ""
    state = load_state(checkpoint)
    assert 1 <= state["epoch"] < 8
    assert not store.model(planted).exists()
    resumed = sweep([spec], store, CPU, workers=0)
    # Seconds differ between any two runs, so equal ones were read from the checkpoint.
    history = json.loads((store.folder(planted) / "history.json").read_text())["victim"]
    assert history[: state["epoch"]] == state["history"]
    assert len(history) == 8
    whole = Store(tmp_path / "whole")
    assert numbers(sweep([spec], whole, CPU, workers=0)) == numbers(resumed)
    one, other = (load_state(s.model(planted))["model"] for s in (store, whole))
    assert all(value.equal(other[name]) for name, value in one.items())


def test_cells_over_seeds_and_data_load_each_set_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells by seed and then by data would load all of them for each seed, where fewer are held than there are."""
    loaded: list[int] = []
    load = zoo.load

    def counted(reference: dict[str, Any], *given: Any, **more: Any) -> Splits:
        loaded.append(reference["train"])
        return load(reference, *given, **more)

    monkeypatch.setattr(zoo, "load", counted)
    sizes = [50, 51, 52, 53, 54, 55]
    specs = grid({"data": {"name": "toy", "test": 20}, "model": "small_cnn", "attack": "badnets",
                  "grid": {"seed": [0, 1, 2], "data.train": sizes}})
    cells = planned(specs, Machine())
    assert [cell.spec for cell in cells] == specs
    check_networks(cells, Machine())
    assert loaded[:6] == sorted(loaded[:6])
    assert all(loaded.count(size) <= 2 for size in sizes)  # to plan, and to show the networks an image
