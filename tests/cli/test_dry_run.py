"""A dry run says what a run would do, and does none of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Cli

SPEC = """
data = { name = "toy", train = 300, test = 60 }
model = { name = "small_cnn", width = 4 }
attack = { name = "badnets", rate = 0.2 }
defenses = ["shrink_pad"]
recipe = { epochs = 1, batch = 32 }
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.toml"
    path.write_text(SPEC)
    return path


def test_it_names_cells_models_and_what_is_there_already(cli: Cli, spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = json.loads(cli("run", spec, "--out", out, "--device", "cpu", "--dry-run", "--json").out)["cells"]
    assert not out.exists()
    assert [step["state"] for step in before] == ["to run", "to run"]
    assert before[0]["model"] == before[1]["model"]
    assert [len(step["trains"]) for step in before] == [2, 0]
    ran = json.loads(cli("-q", "run", spec, "--out", out, "--device", "cpu", "--json", "--set", "defenses=[]").out)
    after = json.loads(cli("run", spec, "--out", out, "--device", "cpu", "--dry-run", "--json").out)["cells"]
    assert [step["state"] for step in after] == ["done", "to run"]
    assert (after[0]["key"], after[0]["model"]) == (ran[0]["key"], ran[0]["planted"])
    assert [step["trains"] for step in after] == [[], []]
    text = cli("run", spec, "--out", out, "--device", "cpu", "--dry-run").out.splitlines()
    assert text[0] == "2 cells: 1 done, 1 to run; 0 models to train"
    assert [line.split()[-1] for line in text[2:4]] == ["none", "shrink_pad"]
    plan = cli("plan", spec, "--out", out, "--device", "cpu").out.splitlines()
    assert plan == [text[0], *text[4:]]
    assert cli("plan", spec, "--out", out, "--device", "cpu", "--cells").out.splitlines() == text


def test_of_a_sweep_it_says_why_cells_are_not_applicable(cli: Cli, spec: Path, tmp_path: Path) -> None:
    said = cli("sweep", spec, "--out", tmp_path / "out", "--device", "cpu", "--dry-run", "--set", "defenses=['abl']",
               "--set", "grid.attack=['wanet']", "--set", "grid.seed=[0,1]")
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[0] == "4 cells: 2 to run, 2 not applicable; 4 models to train"
    # Of each cell, then once for all.
    assert sum("the attacker trains the model and hands over no data" in line for line in lines) == 2 + 1
    assert sum(line.endswith("trains its model and 1 clean") for line in lines) == 2


@pytest.mark.parametrize(("command", "options"), [("run", ["--dry-run"]), ("run", []), ("sweep", [])])
@pytest.mark.parametrize(("model", "message"), [
    ("torchvision:resnet1", "unknown torchvision network 'resnet1'; did you mean resnet1"),
    ("timm:resnet1", "unknown timm network 'resnet1'; did you mean resnet1"),
    ("torchvision:vgg11", "torchvision:vgg11 cannot take 16x16 images"),
])
def test_networks_that_cannot_be_are_found_before_anything_is_trained(
        cli: Cli, spec: Path, tmp_path: Path, command: str, model: str, message: str, options: list[str]) -> None:
    grid = ["--set", "grid.seed=[0]", "--set", f"grid.model=['small_cnn','{model}']"] if command == "sweep" else \
        ["--set", f"model={model}"]
    said = cli(command, spec, "--out", tmp_path / "out", "--device", "cpu", *grid, *options)
    assert (said.code, said.out) == (4, "")
    assert message in said.err
    assert not (tmp_path / "out").exists()


def test_what_is_run_on_is_said_first_with_the_target_by_name(
        cli: Cli, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidedoor.bench.run.attempt", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    said = cli("run", spec, "--out", tmp_path / "out", "--device", "cpu", "--set",
               "attack.goal={name='all_to_one', target_class='triangle'}", "--set", "data=scenes", "--set",
               "train_samples=200", "--set", "test_samples=50")
    assert said.code == 130, said.err
    assert said.err.splitlines()[0] == f"reading {spec}"
    assert said.err.splitlines()[1].startswith("scenes: 200 + 50 images of 3×")
    assert said.err.splitlines()[2].endswith("AllToOne.target_class: 2 (triangle)")
