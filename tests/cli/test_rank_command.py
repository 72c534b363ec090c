"""`sidedoor rank` on a folder of records: nothing else is read, and nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Cli

from sidedoor.bench.record import Record
from sidedoor.bench.store import Store


def record(attack: int, seed: int, defense: str | None, left: float) -> Record:
    spec: dict[str, Any] = {
        "data": {"name": "digits"}, "model": {"name": "small_cnn"}, "seed": seed,
        "attack": {"name": "badnets", "size": 2 + attack}, "defense": {"name": defense} if defense else None}
    before = {"clean": 0.9, "attack": 1.0, "recovered": 0.0}
    return Record(f"{defense}-{attack}-{seed}", "planted", spec, "done", clean=0.9, attack=left, recovered=1 - left,
                  undefended=before if defense else None, seconds=1.0)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store(tmp_path_factory.mktemp("ranked"))
    for attack in range(6):
        for name, left in ((None, 1.0), ("fine_tuning", 0.5), ("anp", 0.1), ("nad", 0.3)):
            store.put(record(attack, 0, name, left))
    return store.root


def test_the_table_the_tests_and_the_limits_are_said(cli: Cli, results: Path, tmp_path: Path) -> None:
    said = cli("rank", results, "--svg", tmp_path / "cd.svg")
    assert said.code == 0
    rows = [line.split() for line in said.out.splitlines() if "[" in line]
    assert [row[3] for row in rows] == ["anp", "nad", "fine_tuning"]
    assert "Over 6 blocks" in said.out
    assert "Friedman chi2 12.00" in said.out
    assert "Some blocks have 1 seed:" in said.out
    assert "xmlns" in (tmp_path / "cd.svg").read_text()


def test_json_has_the_same(cli: Cli, results: Path) -> None:
    found = json.loads(cli("rank", results, "--json", "--by", "asr", "--baseline", "nad").out)
    assert (found["by"], found["baseline"], len(found["blocks"])) == ("asr", "nad", 6)
    assert [line["standing"]["rank"] for line in found["methods"]] == [1, 2, 3]
    assert found["methods"][2]["versus"]["p"] == pytest.approx(2 / 64)


def test_what_cannot_be_ranked_is_refused_with_the_reason(cli: Cli, results: Path, tmp_path: Path) -> None:
    assert cli("rank", tmp_path / "none").code == 2
    said = cli("rank", results, "--by", "acc")
    assert (said.code, "unknown number to rank by 'acc'" in said.err) == (4, True)
    store = Store(tmp_path / "few")
    store.put(record(0, 0, "anp", 0.1))
    said = cli("rank", store.root, "--svg", tmp_path / "no.svg")
    assert (said.code, "at least six blocks" in said.err) == (4, True)
    assert not (tmp_path / "no.svg").exists()
