"""The figures behind a table, to six digits, as a CSV file that a page carries within itself."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from sidedoor.report.overview import Matrix
from sidedoor.report.tables import DETECTION, EFFECT, MEANS, Aggregate, Row

LABELS = ("setting", "attack_name", "defence_name")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What text begins with that spreadsheets run as a formula."""


def uri(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A CSV file as a data URI: None as an empty cell, text never as a formula."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerows([_cell(value) for value in row] for row in (headings, *rows))
    return f"data:text/csv;base64,{base64.b64encode(file.getvalue().encode('utf-8', 'backslashreplace')).decode()}"


def of_groups(groups: Sequence[Aggregate]) -> str:
    """Means over seeds, each with its lower and upper end."""
    names = list(dict.fromkeys(name for group in groups for name in group.figures))
    ends = ("", "_low", "_high")
    rows = [[*_label(group), len(group.done), len(group.left_out),
             *(value for name in names for value in group.figures.get(name, (None, None, None)))] for group in groups]
    return uri([*LABELS, "seeds", "left_out", *(name + end for name in names for end in ends)],
               rows)


def of_rows(rows: Sequence[Row]) -> str:
    """Every run, with the reason of those that are not done."""
    columns = [name + end for name in MEANS for end in ("", "_before", "_low", "_high")]
    return uri(["key", *LABELS, "seed", "status", *columns, *EFFECT, *DETECTION, "audit", "seconds",
                "reason"],
               [[row.record.key, *_label(row), row.seed, row.status,
                 *(value for name in MEANS for value in _means(row, name)),
                 *(row.effect[name] for name in EFFECT), *(row.detection[name] for name in DETECTION), row.audit,
                 row.seconds, row.record.error]
                for row in rows])


def of_matrix(matrix: Matrix) -> str:
    """The attack number after each defence, or why there is none."""
    return uri([*LABELS[:2], *matrix.defenses],
               [[*_label(group)[:2], *map(_left, cells)] for group, cells in matrix.rows])


def _left(cell: Aggregate | None) -> float | str | None:
    if cell is None:
        return None
    return cell.figures["attack"][0] if "attack" in cell.figures else cell.left_out[0].status if cell.left_out else None


def _label(row: Aggregate | Row) -> tuple[str, str, str]:
    return row.label.setting, row.label.attack, row.label.defense


def _means(row: Row, name: str) -> tuple[float | None, ...]:
    mean = row.means[name]
    return mean.after, mean.before, *(mean.interval or (None, None))


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
