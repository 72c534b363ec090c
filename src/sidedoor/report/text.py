"""The table of results on a terminal, and as plain ASCII everywhere else."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from sidedoor.bench.record import Record
from sidedoor.core.printable import visible
from sidedoor.core.terms import Terms
from sidedoor.report.tables import MEANS, Change, Row, decimal, duration, percent, summary_rows
from sidedoor.report.terms import terms_of

PLAIN_WIDTH = 120
NAMES = {"Attack", "Defence"}
SENTENCES = {"Setting", "Audit", "Status"}
NARROW = 9
"""Characters that a column keeps when it wraps, enough for "flagged," and "100.0 ->"."""


def print_table(records: Sequence[Record], console: Console) -> None:
    """Print one row per record, before -> after; below, what defences were given and why cells are not done."""
    rows = summary_rows(records)
    terms = terms_of(records)
    rich = console.is_terminal and not console.legacy_windows
    if rich:
        console.print(_table(_columns(rows, terms, "→", "–"), box.SIMPLE_HEAD, console.width))
    else:
        page = Console(file=io.StringIO(), width=PLAIN_WIDTH, color_system=None, force_terminal=False)
        with page.capture() as captured:
            page.print(_table(_columns(rows, terms, "->", "-"), box.ASCII2, PLAIN_WIDTH))
        _print_lines(captured.get().rstrip("\n"), console)
    for line in [*_given(rows), *_reasons(rows)]:
        if rich:
            console.print(Text(visible(line)))
        else:
            _print_lines(visible(line), console)


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


def _print_lines(text: str, console: Console) -> None:
    """Print ASCII whose lines are neither wrapped nor cropped."""
    console.print(Text(text.encode("ascii", "replace").decode()), soft_wrap=True)


def _columns(rows: list[Row], terms: Terms, arrow: str, missing: str) -> dict[str, list[str]]:
    """The cells of each column that has any."""
    changes = {terms.heading(name): [_change(row.means[name], terms, arrow, missing) for row in rows]
               for name in MEANS}

    columns = {
        "Setting": [row.label.setting for row in rows],
        "Attack": [row.label.attack for row in rows],
        "Defence": [row.label.defense for row in rows],
        "Seed": [str(row.seed) if len({r.seed for r in rows}) > 1 else "" for row in rows],
        **changes,
        "AUROC": [decimal(row.detection["auroc"], "") for row in rows],
        "TPR@1": [percent(row.detection["tpr_at_1"], "") for row in rows],
        "TPR@5": [percent(row.detection["tpr_at_5"], "") for row in rows],
        "Audit": [row.audit or "" for row in rows],
        "Time": [duration(row.seconds) for row in rows],
        "Status": [row.status if row.status != "done" else "" for row in rows],
    }
    return {heading: list(map(visible, cells)) for heading, cells in columns.items() if any(cells)}


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
    whole = {heading: max(map(len, [heading, *cells])) for heading, cells in columns.items()}
    changes = {heading for heading, cells in columns.items() if any("->" in cell or "→" in cell for cell in cells)}
    for wrapping in (SENTENCES, SENTENCES | changes):
        if sum(min(NARROW, size) if heading in wrapping else size for heading, size in whole.items()) <= width:
            return wrapping
    return set(columns)


def _change(change: Change, terms: Terms, arrow: str, missing: str) -> str:
    after = terms.written(change.after, missing)
    return f"{terms.written(change.before, missing)} {arrow} {after}" if change.changed else after
