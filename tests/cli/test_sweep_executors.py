"""`sidedoor sweep` in parts and on other machines: what the options mean, and what is refused before anything runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import Cli

from sidedoor.bench.executors.slurm import Slurm
from sidedoor.cli import _executors

GRID = """
data = { name = "toy", train = 100, test = 20 }
model = { name = "small_cnn", width = 4 }
defenses = ["fine_pruning"]
recipe = { epochs = 1 }

[grid]
seed = [0, 1, 2, 3]
"""


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    file = tmp_path / "grid.toml"
    file.write_text(GRID)
    return file


def cells(cli: Cli, grid: Path, out: Path, *options: str) -> dict[str, str]:
    """The models of the cells of a part, by key, as a dry run has them."""
    said = cli("-q", "sweep", grid, "--out", out, "--dry-run", "--json", *options)
    assert said.code == 0, said.err
    return {cell["key"]: cell["model"] for cell in json.loads(said.out)["cells"]}


def test_parts_are_run_by_whoever_and_make_the_sweep_together(cli: Cli, grid: Path, tmp_path: Path) -> None:
    whole = cells(cli, grid, tmp_path / "out")
    parts = [cells(cli, grid, tmp_path / "out", "--shard", f"{n}/3") for n in (1, 2, 3)]
    assert sorted(key for part in parts for key in part) == sorted(whole)
    assert len(whole) == 8
    assert sum(len(set(part.values())) for part in parts) == 4  # no model is in two


def test_a_part_without_cells_is_no_error(cli: Cli, grid: Path, tmp_path: Path) -> None:
    taken = {int(model, 16) % 9 + 1 for model in cells(cli, grid, tmp_path / "out").values()}
    number = min(set(range(1, 10)) - taken)
    said = cli("sweep", grid, "--out", tmp_path / "out", "--shard", f"{number}/9")
    assert said.code == 0
    assert f"no cell is in part {number}/9" in said.err
    assert not (tmp_path / "out" / "results").exists()


@pytest.mark.parametrize(("options", "words"), [
    (["--shard", "3/2"], "expected I/N with I from 1 to N"),
    (["--shard", "half"], "--shard half given"),
    (["--executor", "dask"], "expected processes, ray or slurm"),
    (["--executor", "ray"], "no --address given; the executor ray needs that of a running cluster"),
    (["--executor", "ray", "--address", "auto"], "--address auto given"),
    (["--address", "head:6379"], "it belongs to --executor ray"),
    (["--gpus", "0.5"], "it belongs to --executor ray"),
    (["--slurm", "partition=gpu"], "it belongs to --executor slurm"),
    (["--executor", "slurm", "--slurm", "gpu"], "expected KEY=VALUE such as partition=gpu"),
    (["--executor", "slurm", "--workers", "0"], "0 is for this process alone"),
    (["--store-locks", "nfs"], "expected flock or lease"),
])
def test_what_cannot_be_meant_is_refused_before_anything_runs(cli: Cli, grid: Path, tmp_path: Path, options: list[str],
                                                              words: str) -> None:
    said = cli("sweep", grid, "--out", tmp_path / "out", "--device", "cpu", *options)
    assert said.code == 4
    assert words in said.err
    assert not (tmp_path / "out" / "results").exists()


def test_what_is_not_installed_is_said_with_its_extra(cli: Cli, grid: Path, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "submitit", None)
    for options in (["ray", "--address", "head:6379"], ["slurm"]):
        said = cli("sweep", grid, "--out", tmp_path / "out", "--executor", *options)
        assert said.code == 2
        assert f"pip install 'sidedoor[{options[0]}]'" in said.err


@pytest.mark.parametrize(("environment", "warned"), [
    ({}, True), ({"RAY_AUTH_MODE": "disabled"}, True), ({"RAY_AUTH_MODE": "token"}, False),
    ({"RAY_AUTH_TOKEN_PATH": "x"}, False), ({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "x"}, True),
])
def test_a_cluster_without_tokens_is_warned_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, warned: bool,
                                               capsys: pytest.CaptureFixture[str], environment: dict[str, str]) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ray = SimpleNamespace(init=lambda **given: None, remote=lambda **given: lambda function: function)
    monkeypatch.setitem(sys.modules, "ray", ray)
    from sidedoor.bench.machine import Machine
    from sidedoor.bench.store import Store

    def made(**changes: Any) -> Any:
        given = {"workers": None, "timeout": None, "address": "head:1", "gpus": 0.0, "slurm": []}
        store = Store(tmp_path / "out", locks="lease")
        return _executors.executor("ray", store, Machine(), **given | changes)  # type: ignore[arg-type]

    assert made(workers=3).most == 3
    said = capsys.readouterr().err
    assert ("switch token authentication on" in said) == warned
    assert "--store-locks lease" not in said


def test_slurm_gets_its_parameters_and_a_hint_about_locks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sidedoor.bench.machine import Machine
    from sidedoor.bench.store import Store

    made = _executors.executor("slurm", Store(tmp_path), Machine(), workers=4, timeout=7.0, address=None, gpus=0.0,
                               slurm=["cluster=debug", "mem_gb=8"])
    assert isinstance(made, Slurm)
    assert made.timeout == 7.0
    assert "--store-locks lease makes some that hold among all" in capsys.readouterr().err
