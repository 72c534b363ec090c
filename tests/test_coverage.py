"""The list of what the papers name points at files and commands that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sidedoor.cli.main import app

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8")
STATES = ("have", "part: ", "out of reach: ", "context")
ROWS = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in PAGE.splitlines()
        if re.match(r"\| [A-K]\d", line)]


def test_each_line_has_a_state_and_what_is_behind_it() -> None:
    assert len(ROWS) > 100
    for number, system, state, where in ROWS:
        assert system
        assert state.startswith(STATES), number
        assert where.startswith("`") or state.startswith(("out of reach", "context")), number


def test_all_systems_of_the_papers_are_listed() -> None:
    """The checklist has 34 attacks, 22 triggers, 19 parts of training and so on."""
    named = set[str]()
    for number, *_ in ROWS:
        for part in number.split(","):
            if found := re.fullmatch(r"([A-K])(\d+)–\1(\d+)", part.strip()):
                named |= {f"{found[1]}{k}" for k in range(int(found[2]), int(found[3]) + 1)}
            else:
                named.add(part.strip().partition(".")[0])
    last = {"A": 34, "B": 22, "C": 19, "D": 25, "E": 15, "F": 25, "G": 30, "H": 9, "I": 12, "J": 23, "K": 5}
    assert {f"{letter}{k}" for letter, count in last.items() for k in range(1, count + 1)} == named


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:tests|experiments|docs|benchmarks)/[^`]+)`", PAGE))))
def test_files_are_there(path: str) -> None:
    assert (ROOT / path).is_file()


def test_commands_are_there() -> None:
    known = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    known |= {group.name or "" for group in app.registered_groups}
    assert set(re.findall(r"`sidedoor (\w+)", PAGE)) <= known
