"""Figures by strength: runs that differ in one number only, and in the seed, as points of one line."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sidedoor.bench.labels import flat
from sidedoor.report.tables import MEANS, Row

FEWEST = 3
"""Values of the number that make a line."""
Point = tuple[float, float, float]
"""Mean, lowest and highest over the seeds."""


@dataclass(frozen=True)
class Line:
    """One of the four numbers by a parameter.

    Args:
        label: what the runs of the line have in common and the other lines of its chart have not.
        values: the parameter, ascending.
        points: for each value, by the name of the number; only numbers that every value has.
    """

    label: str
    values: tuple[float, ...]
    points: dict[str, tuple[Point, ...]]


@dataclass(frozen=True)
class Chart:
    """Lines over one parameter, such as "jpeg: quality"."""

    title: str
    lines: tuple[Line, ...]


def charts(rows: Sequence[Row]) -> list[Chart]:
    """Every parameter that at least `FEWEST` finished runs differ in alone, seeds aside; failed attacks count too."""
    found: dict[tuple[str, str], dict[str, list[tuple[float, Row]]]] = {}
    for row in rows:
        if not row.record.scored:
            continue
        leaves = flat({part: value for part, value in row.record.spec.items() if part != "seed"})
        for key, text in leaves.items():
            value = _number(text)
            if value is not None:
                rest = json.dumps({k: v for k, v in leaves.items() if k != key}, sort_keys=True)
                found.setdefault((key, _owner(row, key)), {}).setdefault(rest, []).append((value, row))
    lines = {key: [_line(members, key[0]) for members in groups.values() if len({v for v, _ in members}) >= FEWEST]
             for key, groups in found.items()}
    return [Chart(f"{owner}: {key.partition('.')[2] or key}", tuple(drawn))
            for (key, owner), drawn in lines.items() if drawn]


def _number(text: str) -> float | None:
    """A number, or the last of a list of numbers that sum to one (the weight of the last task); None for the rest."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    if isinstance(value, list) and len(value) > 1 and all(_is_number(v) for v in value) and abs(sum(value) - 1) < 1e-9:
        value = value[-1]
    return float(value) if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _owner(row: Row, key: str) -> str:
    """The name of the method that a parameter belongs to, else the part of the specification."""
    part = key.partition(".")[0]
    reference = row.record.spec.get(part)
    return str(reference["name"]) if isinstance(reference, dict) and "name" in reference else part


def _line(members: list[tuple[float, Row]], key: str) -> Line:
    values = sorted({value for value, _ in members})
    label = members[0][1].label
    parts = [text for part, text in (("attack", label.attack), ("defense", label.defense), ("", label.setting))
             if text not in ("", "none") and not key.startswith(f"{part}.")]
    if key.startswith("attack."):
        parameter = key.removeprefix("attack.")
        parts.insert(0, _without(label.attack, f"{parameter}={flat(members[0][1].record.spec)[key]}"))
    points: dict[str, tuple[Point, ...]] = {}
    for name in MEANS:
        columns = [[found for v, row in members if v == value and (found := row.means[name].after) is not None]
                   for value in values]
        if all(columns):
            points[name] = tuple((statistics.fmean(c), min(c), max(c)) for c in columns)
    return Line(", ".join(parts), tuple(values), points)


def _without(label: str, parameter: str) -> str:
    """A label such as "i2i (trigger.name=uap, epochs=3)" without one of its parameters."""
    for written in (f", {parameter}", f"{parameter}, ", parameter):
        label = label.replace(written, "")
    return label.removesuffix(" ()")
