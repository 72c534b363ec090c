"""The table of results on a terminal, and as plain ASCII everywhere else."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from sidedoor.bench.record import Record
from sidedoor.core.printable import visible
from sidedoor.core.terms import Terms
from sidedoor.report.tables import (
    MEANS,
    Aggregate,
    Change,
    Row,
    bracketed,
    decimal,
    duration,
    grouped,
    note_on_seeds,
    percent,
    summary_rows,
)
from sidedoor.report.terms import terms_of

PLAIN_WIDTH = 120
NAMES = {"Attack", "Defence"}
SENTENCES = {"Setting", "Audit", "Status"}
NARROW = 9
"""Characters that a column keeps when it wraps, enough for "flagged," and "100.0 ->"."""


def print_table(records: Sequence[Record], console: Console) -> None:
    """Print one row per record, before -> after; below, what defences were given and why cells are not done.

    Where cells differ only in the seed, their means follow.
    """
    rows, terms = summary_rows(records), terms_of(records)
    groups = grouped(rows)
    rich = console.is_terminal and not console.legacy_windows
    marks = ("→", "–") if rich else ("->", "-")
    _print_columns(_columns(rows, terms, *marks), console, rich)
    _print_lines([*_given(rows), *_reasons(rows)], console, rich)
    if any(len(group.done) > 1 for group in groups):
        _print_lines(["", f"Means over seeds. {note_on_seeds(groups)}"], console, rich)
        _print_columns(_seed_columns(groups, terms, *marks), console, rich)


def _print_columns(columns: dict[str, list[str]], console: Console, rich: bool) -> None:
    if rich:
        console.print(_table(columns, box.SIMPLE_HEAD, console.width))
        return
    page = Console(file=io.StringIO(), width=PLAIN_WIDTH, color_system=None, force_terminal=False)
    with page.capture() as captured:
        page.print(_table(columns, box.ASCII2, PLAIN_WIDTH))
    _print_lines(captured.get().rstrip("\n").split("\n"), console, rich)


def _print_lines(lines: Sequence[str], console: Console, rich: bool) -> None:
    """Print lines; off a terminal as ASCII that is neither wrapped nor cropped."""
    for line in map(visible, lines):
        console.print(Text(line if rich else line.encode("ascii", "replace").decode()), soft_wrap=not rich)


def _given(rows: list[Row]) -> list[str]:
    """Which defences were given the same, a line each."""
    given: dict[str, list[str]] = {}
    for row in rows:
        if row.record.given:
            given.setdefault(row.record.given, []).append(row.record.defense_name)
    return [f"given {what}: {', '.join(dict.fromkeys(names))}" for what, names in given.items()]


def _reasons(rows: list[Row]) -> list[str]:
    """Why cells are not done."""
    return [f"{row.label.attack} / {row.label.defense}, seed {row.seed}: {row.status}: "
            f"{(row.record.error or 'no reason was recorded').splitlines()[0]}"
            for row in rows if row.record.status != "done"]


def _columns(rows: list[Row], terms: Terms, arrow: str, missing: str) -> dict[str, list[str]]:
    """The cells of each column that has any."""
    changes = {terms.heading(name): [_change(row.means[name], terms, arrow, missing) for row in rows]
               for name in MEANS}
    several_seeds = len({row.seed for row in rows}) > 1
    columns = {
        "Setting": [row.label.setting for row in rows],
        "Attack": [row.label.attack for row in rows],
        "Defence": [row.label.defense for row in rows],
        "Seed": [str(row.seed) if several_seeds else "" for row in rows],
        **changes,
        "AUROC": [decimal(row.detection["auroc"], "") for row in rows],
        "TPR@1": [percent(row.detection["tpr_at_1"], "") for row in rows],
        "TPR@5": [percent(row.detection["tpr_at_5"], "") for row in rows],
        "Audit": [row.audit or "" for row in rows],
        "Time": [duration(row.seconds) for row in rows],
        "Status": [row.status if row.status != "done" else "" for row in rows],
    }
    return {heading: list(map(visible, cells)) for heading, cells in columns.items() if any(cells)}


def _seed_columns(groups: Sequence[Aggregate], terms: Terms, arrow: str, missing: str) -> dict[str, list[str]]:
    """The cells of each column of means over seeds that has any."""
    changes = {terms.heading(name): [_mean(group, name, terms.written, arrow) or missing for group in groups]
               for name in MEANS}
    columns = {
        "Setting": [visible(group.label.setting) for group in groups],
        "Attack": [visible(group.label.attack) for group in groups],
        "Defence": [visible(group.label.defense) for group in groups],
        "Seeds": [str(len(group.done)) for group in groups],
        "Left out": [str(len(group.left_out) or "") for group in groups],
        **changes,
        "AUROC": [_mean(group, "auroc", decimal, arrow) for group in groups],
    }
    return {heading: cells for heading, cells in columns.items() if any(cells)}


def _mean(group: Aggregate, name: str, shown: Callable[[float], str], arrow: str) -> str:
    """The mean, its interval on a line of its own."""
    if name not in group.figures:
        return ""
    mean, low, high = group.figures[name]
    before = f"{shown(group.figures[f'{name}_before'][0])} {arrow} " if f"{name}_before" in group.figures else ""
    return f"{before}{shown(mean)}\n{bracketed(low, high, shown)}".rstrip()


def _table(columns: dict[str, list[str]], style: box.Box, width: int) -> Table:
    gap = 1 if style is box.ASCII2 else 2
    wrapping = _wrapping(columns, width - gap * len(columns) - 2)
    table = Table(box=style, padding=(0, gap - 1), collapse_padding=True, pad_edge=False)
    for heading in columns:
        side: JustifyMethod = "left" if heading in NAMES | SENTENCES else "right"
        table.add_column(heading, justify=side, no_wrap=heading not in wrapping, overflow="fold")
    for cells in zip(*columns.values(), strict=True):
        # Text, not markup: a name may hold brackets.
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _wrapping(columns: dict[str, list[str]], width: int) -> set[str]:
    """As few columns as must wrap to fit: sentences first, then numbers at their arrow, then all."""
    whole = {heading: max(len(line) for cell in (heading, *cells) for line in cell.split("\n"))
             for heading, cells in columns.items()}
    changes = {heading for heading, cells in columns.items() if any("->" in cell or "→" in cell for cell in cells)}
    for wrapping in (SENTENCES, SENTENCES | changes):
        if sum(min(NARROW, size) if heading in wrapping else size for heading, size in whole.items()) <= width:
            return wrapping
    return set(columns)


def _change(change: Change, terms: Terms, arrow: str, missing: str) -> str:
    after = terms.written(change.after, missing)
    return f"{terms.written(change.before, missing)} {arrow} {after}" if change.changed else after
