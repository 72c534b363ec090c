"""The terminal table: everything within 120 columns, and plain ASCII off a terminal."""

from __future__ import annotations

import io
import re
from dataclasses import replace

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
    text = printed([replace(record, error=record.error and f"{record.error} ≥ 猫") for record in records], False, width)
    assert text.isascii()
    tables = [[line for line in part.splitlines() if line.startswith(("|", "+"))]
              for part in text.partition("Means over seeds")[::2]]
    for table in tables:
        assert 80 < len(table[0]) <= 120
        # Nothing was cropped: every line has both borders and the same length.
        assert {(len(line), line[-1] in "|+") for line in table} == {(len(table[0]), True)}
    table = tables[0]
    # Names stay whole; what is too wide wraps at its arrow.
    row = next(n for n, line in enumerate(table) if "fine_pruning" in line)
    assert re.search(r"90.0 -> *\| *80.0 ->", table[row])
    assert re.search(r"88.0 *\| *5.0 *\|", table[row + 1])
    assert "0.875" in next(line for line in table if "strip" in line)


def test_on_a_terminal_it_fits_the_terminal_and_loses_nothing(records: list[Record]) -> None:
    for width in (120, 80):
        text = printed(records, terminal=True, width=width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        assert text.count("12 s") == len(records)
    some = [record for record in records if record.key in ("seed0", "repair")]
    assert "90.0 → 88.0" in printed(some, terminal=True)


def test_means_over_seeds_follow_with_their_range(records: list[Record]) -> None:
    for terminal in (True, False):
        means = printed(records, terminal).partition("Means over seeds.")[2]
        assert "In brackets: the range of 2 seeds; an interval takes 3." in means
        lines = [line.replace("|", " ").split() for line in means.splitlines()]
        alone = next(n for n, words in enumerate(lines) if words[:2] == ["badnets", "none"])
        assert lines[alone][2:6] == ["2", "1", "85.0", "90.0"]
        assert " ".join(lines[alone + 1][:4]) == "[80.0, 90.0] [80.0, 100.0]"
        assert "Means" not in printed([r for r in records if r.spec["seed"] == 0], terminal)


def test_sentences_wrap_before_names(records: list[Record]) -> None:
    known = [record for record in records if record.status == "done" and record.spec["seed"] == 0]
    text = printed(known, terminal=False)
    assert "spectral_signatures" in text
    assert "flagged, class 0; above all 2 clean" not in text


def test_what_is_not_done_is_explained_below(records: list[Record]) -> None:
    text = printed(records, terminal=False)
    assert "badnets / none, seed 2: attack failed: ASR is 12 %, below 50 %" in text
    assert "badnets / abl, seed 0: error: no loss" in text
    assert "badnets / gate_pruning, seed 0: not applicable: small_cnn has no batch norm" in text


def test_columns_without_figures_are_left_out_and_brackets_are_no_markup() -> None:
    text = printed([make_record("a", defense="[red]x[/red]")], terminal=False)
    assert "[red]x[/red]" in text
    assert not {"AUROC", "Audit", "Seed", "Status", "Setting"} & set(text.replace("|", " ").split())


def test_what_defences_were_given_is_said_once() -> None:
    given = "the model, labelled clean images"
    records = [make_record(f"{name}{seed}", defense=name, seed=seed, given=given)
               for name in ("fine_pruning", "fine_tuning") for seed in (0, 1)]
    assert f"\ngiven {given}: fine_pruning, fine_tuning\n" in printed(records, terminal=False)
    assert "given" not in printed([make_record("a")], terminal=False)


@pytest.mark.parametrize("terminal", [True, False])
def test_names_and_reasons_neither_move_the_cursor_nor_break_lines(terminal: bool) -> None:
    hostile = "[red]x\x1b[31m\n\u202e"
    text = printed([replace(make_record("a", defense=hostile), status="error", error=f"{hostile} \udcdf")], terminal)
    assert set(text) & set("\x1b\u202e\udcdf") == set()
    assert r"[red]x\x1b[31m\n\u202e, seed 0: error: [red]x\x1b[31m" in " ".join(text.split())
