"""The table of results on a terminal, and as plain ASCII everywhere else."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sidedoor.bench.record import Record
from sidedoor.report.tables import Change, Row, decimal, duration, percent, summary_rows

PLAIN_WIDTH = 120


def print_table(records: Sequence[Record], console: Console) -> None:
    """Print one row a record, before -> after, and below the table why a cell is not done."""
    rows = summary_rows(records)
    if console.is_terminal and not console.legacy_windows:
        console.print(_table(rows, "→", "–", box.SIMPLE_HEAD))
    else:
        page = Console(file=io.StringIO(), width=PLAIN_WIDTH, color_system=None, force_terminal=False)
        with page.capture() as captured:
            page.print(_table(rows, "->", "-", box.ASCII2))
        plain = captured.get().encode("ascii", "replace").decode()
        console.print(Text(plain.rstrip("\n")), soft_wrap=True, highlight=False)
    for row in rows:
        if row.record.status != "done":
            what = f"{row.label.attack} / {row.label.defense}, seed {row.seed}: {row.status}"
            why = (row.record.error or "no reason was recorded").splitlines()[0]
            console.print(Text(f"{what}: {why}"), soft_wrap=True, highlight=False)


def _table(rows: list[Row], arrow: str, missing: str, style: box.Box) -> Table:
    def changes(name: str) -> list[str]:
        return [_change(row.means[name], arrow, missing) for row in rows]

    columns = {
        "Setting": [row.label.setting for row in rows],
        "Attack": [row.label.attack for row in rows],
        "Defence": [row.label.defense for row in rows],
        "Seed": [str(row.seed) if len({r.seed for r in rows}) > 1 else "" for row in rows],
        "C-Acc %": changes("clean"), "ASR %": changes("attack"), "R-Acc %": changes("recovered"),
        "Idle %": changes("idle"),
        "AUROC": [decimal(row.detection["auroc"], "") for row in rows],
        "TPR@1": [percent(row.detection["tpr_at_1"], "") for row in rows],
        "TPR@5": [percent(row.detection["tpr_at_5"], "") for row in rows],
        "Audit": [row.verdict or "" for row in rows],
        "Time": [duration(row.seconds) for row in rows],
        "Status": [row.status if row.status != "done" else "" for row in rows],
    }
    names = {"Setting", "Attack", "Defence", "Audit", "Status"}
    table = Table(box=style, padding=(0, 0) if style is box.ASCII2 else (0, 1), collapse_padding=True, pad_edge=False)
    shown = {heading: cells for heading, cells in columns.items() if any(cells)}
    for heading in shown:
        words = heading in names
        whole = min(20, max(map(len, shown[heading]))) if heading in ("Attack", "Defence") else None
        table.add_column(heading, justify="left" if words else "right", no_wrap=not words, overflow="fold",
                         min_width=whole)
    for cells in zip(*shown.values(), strict=True):
        # Text, not markup: a name may hold brackets.
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _change(change: Change, arrow: str, missing: str) -> str:
    after = percent(change.after, missing)
    return f"{percent(change.before, missing)} {arrow} {after}" if change.changed else after
