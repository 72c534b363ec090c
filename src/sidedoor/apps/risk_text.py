"""A threat-risk matrix for the terminal."""

from __future__ import annotations

from sidedoor.apps.risk import INGREDIENTS, Matrix, Row, Value
from sidedoor.core.printable import visible
from sidedoor.report.ranking_text import table

HEADINGS = ("attack", "risk", "95 %", "L", "I", "band", *INGREDIENTS, "runs missing")


def lines(found: Matrix) -> list[str]:
    """The table, watermarks apart, how far weights decide the order, and what is missing."""
    said = table([HEADINGS, *map(_cells, found.threats)]) if found.threats else \
        ["No record is of an attack that harms."]
    if found.watermarks:
        said += ["", "Watermarks: impact with a target of 0, and the power of ownership tests.",
                 *table([("watermark", "I", "95 %", "power"), *map(_positive, found.watermarks)])]
    said += ["", f"Attacks that work here: {sum(row.shown for row in found.rows)}. Intervals resample data sets "
             "and networks, then seeds. What has not been measured counts as what is worst for the defender, an "
             "untried poisoning rate as one that fails."]
    if found.sensitivity is not None:
        said.append(f"Under weights drawn at random the order agrees with this one by a Kendall tau of "
                    f"{found.sensitivity.median:.2f} (median; 5 % quantile {found.sensitivity.low:.2f}).")
    missing = sum(len(row.missing) for row in found.rows)
    if missing:
        said.append(f"Runs that are missing: {missing}; --missing prints a sweep file of them.")
    return list(map(visible, said))


def _cells(row: Row) -> list[str]:
    parts = [row.ingredients[name].value for name in INGREDIENTS]
    return [row.name, f"{row.risk.value:.1f}", _interval(row.risk), f"{row.likelihood.value:.2f}",
            f"{row.impact.value:.2f}", row.words, *("-" if part is None else f"{part:.2f}" for part in parts),
            str(len(row.missing) or "")]


def _positive(row: Row) -> list[str]:
    return [row.name, f"{row.impact.value:.2f}", _interval(row.impact),
            "not in the records" if row.benefit is None else f"{100 * row.benefit:.1f} %"]


def _interval(value: Value) -> str:
    return f"{value.low:.1f}-{value.high:.1f}"
