"""`sidedoor risk` from a folder of records to a table, a page and the runs that are missing."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import Cli
from test_rank_command import record

from sidedoor.bench.spec import Spec, grid
from sidedoor.bench.store import Store


@pytest.fixture
def results(tmp_path: Path) -> Path:
    store = Store(tmp_path / "runs")
    for name, left in ((None, 1.0), ("anp", 0.1)):
        plain = record(0, 0, name, left)
        spec = Spec(data="digits", model="small_cnn", attack="badnets", defense=name)
        store.put(replace(plain, spec=json.loads(json.dumps(spec.to_json())), samples={"train": 100, "poisoned": 9},
                          columns={"psnr": 20.0, "ssim": 0.8}))
    return store.root


def test_a_table_a_page_and_json(cli: Cli, results: Path, tmp_path: Path) -> None:
    said = cli("risk", results, "-o", tmp_path / "risk.html")
    assert said.code == 0
    assert "badnets" in said.out
    # Four lower rates, five things on the way, and all stages but repair.
    assert "Runs that are missing: 14; --missing prints a sweep file" in said.out
    assert "<h1>Threat-risk matrix</h1>" in (tmp_path / "risk.html").read_text()
    (attack,) = json.loads(cli("risk", results, "--json").out)["attacks"]
    assert attack["ingredients"]["least"]["value"] == pytest.approx(0.1)
    (tmp_path / "weights.toml").write_text("[impact]\nleast = 0\n")
    (other,) = json.loads(cli("risk", results, "--json", "--weights", tmp_path / "weights.toml").out)["attacks"]
    assert other["impact"]["value"] > attack["impact"]["value"]


def test_missing_runs_are_printed_or_written(cli: Cli, results: Path, tmp_path: Path) -> None:
    said = cli("risk", results, "--missing")
    assert said.code == 0
    assert {spec.attack_name for spec in grid(tomllib.loads(said.out))} == {"badnets"}
    assert "further files: 1" in said.err
    assert cli("risk", results, "--missing", "-o", tmp_path / "todo").code == 0
    assert sorted(file.name for file in (tmp_path / "todo").iterdir()) == ["data.toml", "rates.toml"]
    said = cli("risk", results, "--missing", "--json")
    assert (said.code, "expected one of them" in said.err) == (4, True)
