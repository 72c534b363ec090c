"""The terminal table: everything within 120 columns, and plain ASCII off a terminal."""

from __future__ import annotations

import io

import pytest
from fabricated import make_record
from rich.console import Console

from sidedoor.bench.record import Record
from sidedoor.report.text import print_table


def printed(records: list[Record], terminal: bool, width: int = 120) -> str:
    file = io.StringIO()
    print_table(records, Console(file=file, force_terminal=terminal, width=width, color_system=None,
                                 legacy_windows=False, _environ={}))
    return file.getvalue()


@pytest.mark.parametrize("width", [40, 120])
def test_off_a_terminal_it_is_ascii_of_120_columns(records: list[Record], width: int) -> None:
    text = printed(records, terminal=False, width=width)
    assert text.isascii()
    table = [line for line in text.splitlines() if line.startswith(("|", "+"))]
    assert 80 < max(map(len, table)) <= 120
    row = next(line for line in table if "fine_pruning" in line)
    assert "90.0 -> 88.0" in row
    assert "80.0 -> 5.0" in row
    assert "0.875" in next(line for line in table if "strip" in line)


def test_on_a_terminal_it_fits_the_terminal(records: list[Record]) -> None:
    text = printed(records, terminal=True)
    assert "90.0 → 88.0" in text
    assert max(len(line) for line in text.splitlines() if "→" in line) <= 120


def test_what_is_not_done_is_explained_below(records: list[Record]) -> None:
    text = printed(records, terminal=False)
    assert "badnets / none, seed 2: attack failed: ASR is 12 %, below 50 %" in text
    assert "badnets / abl, seed 0: error: no loss" in text


def test_columns_without_figures_are_left_out_and_brackets_are_no_markup() -> None:
    text = printed([make_record("a", defense="[red]x[/red]")], terminal=False)
    assert "[red]x[/red]" in text
    assert not {"AUROC", "Audit", "Seed", "Status", "Setting"} & set(text.replace("|", " ").split())
