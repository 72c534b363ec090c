"""The command line: what goes to stdout, what it exits with, and what a person is told."""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from sidedoor import registry
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.bench.case import load, train_or_load
from sidedoor.bench.machine import Machine
from sidedoor.bench.record import Record
from sidedoor.bench.spec import cells, read
from sidedoor.bench.store import Store
from sidedoor.cli.main import main
from sidedoor.data.root import Where

SPEC = """
data = { name = "toy", train = 600, test = 80 }
model = { name = "small_cnn", width = 8 }
attack = { name = "badnets", rate = 0.2 }
defenses = ["shrink_pad"]
recipe = { epochs = 3, batch = 32 }
"""


class Said(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Cli = Callable[..., Said]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small train fastest on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command in this process."""
    monkeypatch.delenv("SIDEDOOR_DATA", raising=False)

    def call(*arguments: object) -> Said:
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        return Said(int(stop.value.code or 0), *capsys.readouterr())

    return call


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.toml"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished cells of the specification."""
    folder = tmp_path_factory.mktemp("results")
    (folder / "spec.toml").write_text(SPEC)
    with pytest.raises(SystemExit) as stop:
        main(["run", str(folder / "spec.toml"), "--out", str(folder / "out"), "--device", "cpu"])
    assert stop.value.code == 0
    return folder / "out"


def python(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=240, check=False,
                          env=os.environ | {"OMP_NUM_THREADS": "1"} | more)


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["list", "attacks", "--json"], ["run", "--help"]],
                         ids=" ".join)
def test_help_and_list_do_not_import_torch(arguments: list[str]) -> None:
    code = f"""
import sys
from sidedoor.cli.main import main
try:
    main({arguments!r})
except SystemExit as stop:
    heavy = {{"torch", "numpy", "sklearn", "lightning_fabric"}} & set(sys.modules)
    sys.exit(f"imported {{heavy}}" if heavy else stop.code)
"""
    done = python("-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_without_arguments_the_commands_are_listed(cli: Cli) -> None:
    said = cli("--help")
    assert said.code == 0
    for command in ("list", "show", "run", "sweep", "report", "poison", "doctor", "clean"):
        assert f"\n  {command} " in said.out
    bare = cli()
    assert (bare.code, "Usage" in bare.out + bare.err) == (4, True)


def test_list_names_everything_that_is_registered(cli: Cli) -> None:
    said = cli("list", "--json")
    assert (said.code, said.err) == (0, "")
    entries = json.loads(said.out)
    assert [(e["kind"], e["name"]) for e in entries] == [(e.kind, e.name) for e in registry.entries()]
    lines = cli("list").out.splitlines()
    assert len(lines) == len(entries)
    assert all(line.startswith(e["kind"]) and f" {e['name']} " in line and line.endswith(e["summary"])
               for line, e in zip(lines, entries, strict=True))


@pytest.mark.parametrize("kind", registry.KINDS)
def test_list_takes_a_kind_in_singular_and_plural(cli: Cli, kind: str) -> None:
    one, many = (json.loads(cli("list", k, "--json").out) for k in (kind, f"{kind}s"))
    assert one == many
    assert {e["kind"] for e in one} == {kind}


@pytest.mark.parametrize("name", [e.name for e in registry.entries()])
def test_show_describes_every_name(cli: Cli, name: str) -> None:
    said = cli("show", name, "--json")
    assert (said.code, said.err) == (0, "")
    description = json.loads(said.out)
    kind = registry.find(name).kind
    assert (description["name"], description["kind"]) == (name, kind)
    assert description["docstring"]
    assert description["parameters"].keys() == registry.parameters(kind, name).keys()
    assert bool(description["threat_model"]) == (kind in ("attack", "defense"))
    text = cli("show", name).out
    assert text.startswith(f"{name} ({kind})\n")
    assert all(f"  {parameter}" in text for parameter in description["parameters"])


def test_show_says_what_matters_of_an_attack_and_a_defence(cli: Cli) -> None:
    badnets = cli("show", "badnets").out
    assert "arXiv:1708.06733" in badnets
    assert "the attacker changes training data; the victim trains" in badnets
    assert "rate = 0.1  (float, between 0 and 1)" in badnets
    assert "defender's small clean split" in " ".join(cli("show", "fine_pruning").out.split())


@pytest.mark.parametrize(("arguments", "message"), [
    (["show", "badnet"], "did you mean badnets"), (["list", "atacks"], "did you mean attack"),
    (["lst"], "lst"), (["run"], "SPEC.toml"), (["run", "{spec}", "--devices", "0"], "devices"),
    (["run", "{spec}", "--set", "attack.rat=1"], "did you mean rate"), (["run", "/no/such.toml"], "cannot read"),
    (["run", "{spec}", "--set", "seed"], "expected KEY=VALUE"), (["run", "{spec}", "--out", "{spec}"], "is a file"),
    (["sweep", "{spec}"], "[grid]"), (["sweep", "{spec}", "--workers", "-1"], "workers"),
    (["sweep", "{spec}", "--workers", "0", "--timeout", "5", "--set", "grid.seed=[0]", "--out", "{out}"], "timeout"),
    (["poison", "{spec}", "--out", "{out}", "--format", "zip"], "expected folder or npz"),
    (["poison", "{spec}", "--out", "{out}", "--set", "attack=wanet", "--set", "defenses=[]"], "poisons no data"),
    (["show", "badnets", "--jsn"], "jsn"),
    (["run", "{spec}", "--out", "{out}", "--set", "attack.goal.target_class=9", "--set", "attack.goal.name=all_to_one"],
     "target_class = 9 given; the data have classes 0 to 3"),
    (["poison", "{spec}", "--out", "{out}", "--set", "attack={{name='tact',source_classes=[1,9]}}"],
     "source_classes = (1, 9) given; the data have classes 0 to 3"),
], ids=str)
def test_what_cannot_be_meant_exits_with_4(cli: Cli, spec: Path, tmp_path: Path, arguments: list[str],
                                           message: str) -> None:
    said = cli(*(a.format(spec=spec, out=tmp_path / "out") for a in arguments))
    assert said.code == 4
    assert said.out == ""
    assert message in said.err
    assert "Traceback" not in said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("arguments", "message"), [
    (["run", "{spec}", "--out", "{out}", "--set", "data=cifar10"], "pass --data-root DIR or set SIDEDOOR_DATA"),
    (["run", "{spec}", "--out", "{out}", "--set", "data=cifar10", "--data-root", "{tmp}"],
     "fetch it with `sidedoor run SPEC.toml --download`"),
    (["sweep", "{spec}", "--out", "{out}", "--set", "data=cifar10", "--set", "grid.seed=[0]"], "--data-root"),
    (["run", "{spec}", "--out", "{spec}/below"], "Not a directory"),
    (["report", "{tmp}"], "run `sidedoor run` or `sweep` first"), (["clean", "{tmp}/none"], "no folder"),
    (["run", "{spec}", "--out", "{out}", "--device", "abacus"], "cannot compute on 1 × abacus"),
], ids=str)
def test_what_is_missing_exits_with_2_and_says_what_to_do(cli: Cli, spec: Path, tmp_path: Path, arguments: list[str],
                                                          message: str) -> None:
    said = cli(*(a.format(spec=spec, out=tmp_path / "out", tmp=tmp_path) for a in arguments))
    assert (said.code, said.out) == (2, "")
    assert message in said.err
    assert "Traceback" not in said.err


def test_run_prints_a_table_and_writes_records_and_a_report(cli: Cli, spec: Path, results: Path) -> None:
    said = cli("run", spec, "--out", results, "--device", "cpu")
    assert said.code == 0
    assert "badnets" in said.out
    assert "shrink_pad" in said.out
    assert f"report:  {results / 'report.html'}" in said.out
    assert (results / "report.html").read_text().lstrip().lower().startswith("<!doctype html>")
    assert len(list((results / "results").glob("*.json"))) == 2


def test_run_with_json_prints_the_records_and_nothing_else(cli: Cli, spec: Path, results: Path) -> None:
    said = cli("run", spec, "--out", results, "--json", "--device", "cpu")
    assert said.code == 0
    records = [Record.from_json(r) for r in json.loads(said.out)]
    assert sorted(records, key=lambda r: r.key) == Store(results).records()
    assert [r.defense_name for r in records] == ["none", "shrink_pad"]
    assert records[0].attack is not None
    assert records[0].attack > 0.9


def test_sweep_finds_what_a_run_has_done(cli: Cli, spec: Path, results: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in results.rglob("model.safetensors")}
    said = cli("sweep", spec, "--out", results, "--json", "--device", "cpu", "--set", "grid.seed=[0]")
    assert said.code == 0
    assert len(json.loads(said.out)) == 2
    assert {p: p.stat().st_mtime_ns for p in results.rglob("model.safetensors")} == before
    assert ("results.parquet" in said.err) == (results / "results.parquet").exists()


def test_a_run_that_failed_exits_with_1_and_the_others_are_shown(cli: Cli, spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = cli("run", spec, "--out", out, "--json", "--device", "cpu", "--set", "recipe.lr=1e30",
               "--set", "recipe.epochs=1")
    assert said.code == 1
    assert [r["status"] for r in json.loads(said.out)] == ["error", "error"]
    assert "badnets / none: error: phase 'victim': the loss became nan" in said.err
    assert len(Store(out).records()) == 2


def test_a_damaged_record_is_named_and_left_alone(cli: Cli, spec: Path, tmp_path: Path) -> None:
    (key, _) = (c.key(load(c, Store(tmp_path), Machine(device="cpu")).fingerprint) for c in cells(read(spec)))
    path = tmp_path / "out" / "results" / f"{key}.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"key": ')
    said = cli("run", spec, "--out", tmp_path / "out", "--device", "cpu")
    assert (said.code, said.out) == (2, "")
    assert f"cannot read the record {path}" in said.err
    assert "delete it to run its cell again" in said.err
    assert path.read_text() == '{"key": '


def test_an_interrupted_run_exits_with_130_and_resumes(cli: Cli, spec: Path, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    arguments = ("run", spec, "--out", tmp_path / "out", "--device", "cpu", "--set", "defenses=[]")
    with monkeypatch.context() as patch:
        patch.setattr("sidedoor.bench.run.measured", interrupt)
        said = cli(*arguments)
    assert (said.code, said.out) == (130, "")
    assert "interrupted; the same command resumes where it stopped" in said.err
    assert not (tmp_path / "out" / "results").exists()
    trained = {model: model.stat().st_mtime_ns for model in (tmp_path / "out").rglob("model.safetensors")}
    assert len(trained) == 2
    assert cli(*arguments).code == 0
    assert {model: model.stat().st_mtime_ns for model in trained} == trained


def test_report_writes_a_page_where_it_is_told(cli: Cli, results: Path, tmp_path: Path) -> None:
    said = cli("report", results, "-o", tmp_path / "page.html")
    assert (said.code, said.out) == (0, f"{tmp_path / 'page.html'}\n")
    assert "badnets" in (tmp_path / "page.html").read_text()
    assert cli("report", results).out == f"{results / 'report.html'}\n"


def test_clean_lists_and_then_removes_what_no_result_needs(cli: Cli, results: Path) -> None:
    stale = results / "artefacts" / "0123456789abcdef"
    stale.mkdir()
    (stale / "model.safetensors").write_bytes(bytes(2**20))
    kept = {p for p in results.rglob("*") if stale not in (p, *p.parents)}
    listed = cli("clean", results)
    assert (listed.code, listed.out) == (0, f"{1.0:9.1f} MB  {stale}\n")
    assert "nothing was removed" in listed.err
    assert stale.exists()
    removed = cli("clean", results, "--remove")
    assert (removed.code, removed.err) == (0, "removed 1.0 MB\n")
    assert not stale.exists()
    assert set(results.rglob("*")) == kept
    assert cli("clean", results) == (0, "", "")


def test_doctor_says_what_the_machine_has(cli: Cli, tmp_path: Path) -> None:
    said = cli("doctor", "--json", "--data-root", tmp_path)
    assert (said.code, said.err) == (0, "")
    found = json.loads(said.out)
    assert found["environment"]["torch"] == importlib.metadata.version("torch")
    assert "cores" in found["devices"]["cpu"]
    assert found["data"]["root"] == str(tmp_path)
    assert found["data"]["toy"] == "1000 + 500 images (3, 16, 16), 4 classes"
    assert found["data"]["cifar10"].startswith("not found")
    assert found["optional"].keys() >= {"timm", "pyarrow", "lpips"}
    text = cli("doctor")
    assert text.code == 0
    assert "needs a data root" in text.out


def poisoned(spec: Path, tmp_path: Path) -> PoisonedDataset:
    case = load(cells(read(spec))[0], Store(tmp_path / "none"), Machine(device="cpu"))
    return PoisonedDataset(case.train, train_or_load(case).backdoor, case.task)


@pytest.mark.parametrize("form", ["folder", "npz"])
def test_poison_exports_what_a_victim_would_train_on(cli: Cli, spec: Path, tmp_path: Path, form: str) -> None:
    said = cli("poison", spec, "--out", tmp_path / "handed-out", "--format", form)
    assert said.code == 0
    folder = Path(said.out.strip())
    assert folder == tmp_path / "handed-out-backdoored"
    data = poisoned(spec, tmp_path)
    pixels, labels = data.rows(torch.arange(len(data))).numpy(), data.targets.numpy()
    manifest = json.loads((folder / "manifest.json").read_text())
    clean = data.base.rows(torch.arange(len(data))).numpy()
    assert manifest["changed"] == np.flatnonzero((pixels != clean).any((1, 2, 3))).tolist()
    assert manifest["labels_before"] == data.base.targets[manifest["changed"]].tolist()
    assert manifest["labels_after"] == [0] * len(manifest["changed"])
    assert (manifest["attack"]["name"], manifest["rate"], manifest["rows"]) == ("badnets", 0.2, len(data))
    if form == "npz":
        with np.load(folder / "backdoored.npz") as stored:
            assert np.array_equal(stored["train_images"], pixels.transpose(0, 2, 3, 1))
            assert np.array_equal(stored["train_labels"], labels)
    else:
        splits = registry.make("data", f"folder:{folder}")(Where(None))
        back = {}
        for part in splits:
            rows = part.rows(torch.arange(len(part))).numpy()
            back |= {image.tobytes(): int(label) for image, label in zip(rows, part.targets, strict=True)}
        assert back == {image.tobytes(): int(label) for image, label in zip(pixels, labels, strict=True)}
    # Nothing else is left beside it.
    assert {p.name for p in tmp_path.iterdir()} - {"none"} == {"spec.toml", folder.name}


def test_poison_never_writes_into_a_folder_that_holds_something(cli: Cli, spec: Path, tmp_path: Path) -> None:
    taken = tmp_path / "backdoored"
    taken.mkdir()
    (taken / "mine").touch()
    said = cli("poison", spec, "--out", taken)
    assert (said.code, said.out) == (4, "")
    assert "exists and is not an empty folder" in said.err
    assert [p.name for p in taken.iterdir()] == ["mine"]


def port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_two_devices_train_one_model_and_the_first_speaks(spec: Path, tmp_path: Path) -> None:
    done = python("-m", "sidedoor", "run", str(spec), "--devices", "2", "--device", "cpu", "--json", "--out",
                  str(tmp_path / "out"), MASTER_PORT=port())
    assert done.returncode == 0, done.stderr
    records = [Record.from_json(r) for r in json.loads(done.stdout)]
    assert [r.status for r in records] == ["done", "done"]
    assert sorted(records, key=lambda r: r.key) == Store(tmp_path / "out").records()
    assert "GLOBAL_RANK: 1, MEMBER: 2/2" in done.stderr
    assert len(list((tmp_path / "out").rglob("model.safetensors"))) == 2
    assert records[0].attack is not None
    assert records[0].attack > 0.9
