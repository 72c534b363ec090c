"""The command line: what goes to stdout, what it exits with, and what a person is told."""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Cli, Said

from sidedoor import registry
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.bench.case import load, train_or_load
from sidedoor.bench.machine import Machine
from sidedoor.bench.record import Record
from sidedoor.bench.spec import Spec, cells, read
from sidedoor.bench.store import Store
from sidedoor.cli.main import main
from sidedoor.data.root import Where
from sidedoor.engine import Recipe
from sidedoor.zoo import Weights

SPEC = """
data = { name = "toy", train = 600, test = 80 }
model = { name = "small_cnn", width = 8 }
attack = { name = "badnets", rate = 0.2 }
defenses = ["shrink_pad"]
recipe = { epochs = 3, batch = 32 }
"""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small train fastest on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


@pytest.mark.parametrize("arguments", [
    ["--help"], ["-h"], ["--version"], ["list"], ["list", "attacks", "--json"], ["list", "--markdown"],
    ["show", "recipe"], ["schema"], ["run", "-h"], ["study", "pairs", "-h"]], ids=" ".join)
def test_what_says_what_there_is_does_not_import_torch(arguments: list[str]) -> None:
    done = without(("torch", "numpy", "sklearn", "lightning_fabric"), arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_a_report_does_not_import_torch(results: Path, tmp_path: Path) -> None:
    done = without(("torch", "lightning_fabric"), ["report", str(results), "-o", str(tmp_path / "page.md")])
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'page.md'}\n"), done.stderr


def without(packages: tuple[str, ...], arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own that fails if it imported any of the packages."""
    return python("-c", f"""
import sys
from sidedoor.cli.main import main
try:
    main({arguments!r})
except SystemExit as stop:
    heavy = set({packages!r}) & sys.modules.keys()
    sys.exit(f"imported {{heavy}}" if heavy else stop.code)
""")


def test_without_arguments_the_commands_are_listed(cli: Cli) -> None:
    said = cli("--help")
    assert said.code == 0
    for command in ("list", "show", "schema", "init", "run", "sweep", "report", "poison", "doctor", "clean", "stego",
                    "study"):
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
    badnets = next(e for e in entries if e["name"] == "badnets")
    assert (badnets["access"], badnets["tasks"], badnets["room"]) == ("data", ["classification"], "attacks.poisoning")


@pytest.mark.parametrize("kind", registry.KINDS, ids=lambda k: k.name)
def test_list_takes_a_kind_by_each_of_its_names(cli: Cli, kind: registry.Kind) -> None:
    said = [json.loads(cli("list", name, "--json").out) for name in kind.names]
    assert all(entries == said[0] for entries in said)
    assert {e["kind"] for e in said[0]} == {kind.name}


def test_a_former_name_of_a_kind_is_another_name_for_it(cli: Cli) -> None:
    for former, kind in (("design", "trigger_design"), ("operators", "forward_operator"),
                         ("detectors", "object_detector")):
        assert {e["kind"] for e in json.loads(cli("list", former, "--json").out)} == {kind}


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
    assert "rate" in registry.load("attack", "badnets").origins
    assert f"      default: {registry.load('attack', 'badnets').origins['rate']}\n" in badnets
    said = " ".join(cli("show", "fine_pruning").out.split())
    assert "a defence (repair) that removes a backdoor from a model; it is given the model, labelled clean" in said


def test_show_documents_every_key_of_a_specification(cli: Cli) -> None:
    for name, cls in (("spec", Spec), ("recipe", Recipe), ("weights", Weights)):
        said = cli("show", name)
        assert (said.code, said.err) == (0, "")
        page = json.loads(cli("show", name, "--json").out)
        assert page["parameters"].keys() - {"defenses", "grid", "tier"} == {f.name for f in fields(cls)}
        assert all(parameter["meaning"] for parameter in page["parameters"].values())
    assert "  seed = 0  (int)\n" in cli("show", "spec").out
    assert "  data  (name or table with a name, required)\n" in cli("show", "spec").out
    assert "  defender_share = 0.05  (float, between 0 and 1)\n" in cli("show", "spec").out
    assert "  schedule = 'one_cycle'  (one of 'cosine', 'one_cycle', 'step', 'constant')\n" in cli("show", "recipe").out


def test_show_of_a_network_leads_to_the_keys_about_its_weights(cli: Cli) -> None:
    assert "see `sidedoor show weights`" in " ".join(cli("show", "resnet18").out.split())
    assert "see `sidedoor show weights`" not in cli("show", "badnets").out


def test_show_says_which_layouts_a_data_set_reads(cli: Cli) -> None:
    said = cli("show", "folder").out
    assert "`DIR/train` and `DIR/test`" in said
    assert "path: the folder" in said
    assert cli("show", "cifar10").out.count("Paper:") == 1


def test_a_method_is_shown_by_the_name_it_had(cli: Cli) -> None:
    assert cli("show", "latent").out == cli("show", "subnet_replacement").out


def test_the_version_is_that_of_the_package(cli: Cli) -> None:
    assert cli("--version") == (0, f"sidedoor {importlib.metadata.version('sidedoor')}\n", "")


@pytest.mark.parametrize("command", [[], ["run"], ["list"], ["stego"], ["stego", "hide"], ["study", "rates"]], ids=str)
def test_h_is_help_everywhere(cli: Cli, command: list[str]) -> None:
    short = cli(*command, "-h")
    assert short.code == 0
    assert short == cli(*command, "--help")


def test_the_shell_completes_commands_and_names() -> None:
    def completed(words: str) -> list[str]:
        done = python("-m", "sidedoor", _SIDEDOOR_COMPLETE="complete_bash", COMP_WORDS=words,
                      COMP_CWORD=str(words.count(" ")))
        return done.stdout.split()

    assert completed("sidedoor rep") == ["repair", "report"]
    assert completed("sidedoor show badn") == ["badnets"]
    assert completed("sidedoor show rec") == [e.name for e in registry.entries() if e.name.startswith("rec")] + \
        ["recipe"]
    assert completed("sidedoor list trigger") == ["trigger", "trigger_design"]


@pytest.mark.parametrize("place", ["before", "after"])
def test_quiet_says_nothing_but_errors_and_debug_where_an_error_came_from(cli: Cli, spec: Path, tmp_path: Path,
                                                                            place: str) -> None:
    def said(option: list[str], *more: object) -> Said:
        command = ("sweep", spec, "--out", tmp_path / "out", "--device", "cpu", "--workers", "0", "--set",
                   "grid.seed=[0]", "--set", "attack=none" if more else "defenses=[]", "--set", "recipe.epochs=1")
        return cli(*option, *command) if place == "before" else cli(*command, *option)

    loud = said([])
    assert "runs" in loud.err or "table" in loud.err
    assert said(["-q"]) == (loud.code, loud.out, "")
    wrong = said(["-q"], "wrong")
    assert wrong.code == 4
    assert wrong.err.startswith("sidedoor: unknown attack 'none'")
    assert "Traceback" in said(["--debug"], "wrong").err
    assert "Traceback" not in said(["-v"], "wrong").err


@pytest.mark.parametrize(("arguments", "message"), [
    (["show", "badnet"], "did you mean badnets"), (["list", "atacks"], "did you mean attack"),
    (["list", ""], "unknown kind ''"), (["show", ""], "unknown name ''"),
    (["lst"], "lst"), (["run"], "SPEC.toml"), (["run", "{spec}", "--devices", "0"], "devices"),
    (["run", "{spec}", "--device", "cuda:1", "--devices", "2", "--out", "{out}"], "expected 'cuda'"),
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
    (["run", "{spec}", "--out", "{out}", "--device", "cuda:77"], "cannot compute on 1 × cuda:77"),
    (["run", "{spec}", "--out", "{out}", "--device", "cuda:x"], "`sidedoor doctor` lists devices"),
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
    assert "the same command resumes where it stopped" in said.err
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
    assert found["data"].keys() == {"root"} | {e.name for e in registry.entries() if e.kind == "data"} - {
        "clips", "folder", "npz", "yolo"}
    assert found["data"]["cifar10"].startswith("not found")
    assert found["optional"].keys() >= {"timm", "pyarrow", "lpips"}
    text = cli("doctor", "-v")
    assert text.code == 0
    assert {line.split()[0] for line in text.out.splitlines() if line.endswith("needs a data root")} == {
        "cifar10", "cifar100", "fashion_mnist", "gtsrb", "kmnist", "mnist", "patches", "tiny_imagenet"}
    assert "  scenes             60 + 20 images (3, 32, 32), 3 classes, made small here" in text.out
    short = cli("doctor").out.splitlines()
    assert len(short) < 10
    assert "data found   digits, moving, photos, scenes, toy" in short
    assert any(line.startswith("need a root  cifar10, ") for line in short)


def poisoned(spec: Path, tmp_path: Path) -> PoisonedDataset:
    case = load(cells(read(spec))[0], Store(tmp_path / "none"), Machine(device="cpu"))
    return PoisonedDataset(case.train, train_or_load(case).backdoor, case.task)


@pytest.mark.parametrize("form", ["folder", "npz"])
def test_poison_exports_what_a_victim_would_train_on(cli: Cli, spec: Path, tmp_path: Path, form: str) -> None:
    said = cli("poison", spec, "--out", tmp_path / "handed-out", "--format", form)
    assert said.code == 0
    folder = Path(said.out.strip())
    assert folder == tmp_path / "handed-out"
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
        part = registry.make("data", f"folder:{folder}")(Where(None)).train
        rows = part.rows(torch.arange(len(part))).numpy()
        back = {image.tobytes(): int(label) for image, label in zip(rows, part.targets, strict=True)}
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
    assert {r.spec["devices"] for r in records} == {2}
    assert sorted(records, key=lambda r: r.key) == Store(tmp_path / "out").records()
    assert "GLOBAL_RANK: 1, MEMBER: 2/2" in done.stderr
    assert len(list((tmp_path / "out").rglob("model.safetensors"))) == 2
    assert records[0].attack is not None
    assert records[0].attack > 0.9
