"""The specification that `sidedoor init` writes says what the defaults are, and runs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from command_line import Cli

from sidedoor.bench.spec import cells, grid, read
from sidedoor.cli.specification import spec_keys


@pytest.fixture
def written(cli: Cli, tmp_path: Path) -> Path:
    said = cli("init", tmp_path / "mine.toml")
    assert (said.code, said.out) == (0, f"{tmp_path / 'mine.toml'}\n")
    return tmp_path / "mine.toml"


def test_it_is_a_specification_with_every_key(written: Path) -> None:
    found = cells(read(written))
    assert [spec.defense_name for spec in found] == ["none", "fine_pruning", "strip"]
    names = set(re.findall(r"^(?:# )?\[?(\w+)(?: =|\])", written.read_text(), re.MULTILINE))
    assert {key.name for key in spec_keys()} - names == {"surrogate", "defense", "devices", "tier"}


def test_what_is_behind_a_number_sign_is_the_default(written: Path) -> None:
    shown = re.sub(r"^# (?=\w+ = |\"|\[grid)", "", written.read_text(), flags=re.MULTILINE)
    assert shown.count("#") < written.read_text().count("#") - 12
    table = tomllib.loads(shown)
    assert cells({k: v for k, v in table.items() if k != "grid"}) == cells(read(written))
    assert len(grid(table)) == 18


def test_a_file_that_is_there_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("mine")
    said = cli("init", tmp_path / "mine.toml")
    assert (said.code, said.out) == (4, "")
    assert "exists and is left alone" in said.err
    assert (tmp_path / "mine.toml").read_text() == "mine"
    assert cli("init", tmp_path / "none" / "mine.toml").code == 2
