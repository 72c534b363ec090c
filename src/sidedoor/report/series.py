"""Figures by strength: runs that differ in one number only, and in the seed, as points of one line."""

from __future__ import annotations

import json
import statistics
from collections import Counter
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
    scored = [row for row in rows if row.record.scored]
    tables = [flat({part: value for part, value in row.record.spec.items() if part != "seed"}) for row in scored]
    numbers, varying = _varying(tables)
    found: dict[tuple[str, str], dict[str, list[tuple[float, Row]]]] = {}
    for row, table in zip(scored, tables, strict=True):
        leaves = {key: text for key, text in table.items() if key in varying}
        for key in (key for key in leaves if key in numbers):
            if (value := numbers[key].get(leaves[key])) is not None:
                rest = json.dumps({k: v for k, v in leaves.items() if k != key}, sort_keys=True)
                found.setdefault((key, _owner(row, key)), {}).setdefault(rest, []).append((value, row))
    lines = {key: [_line(members, key[0]) for members in groups.values() if len({v for v, _ in members}) >= FEWEST]
             for key, groups in found.items()}
    return [Chart(f"{owner}: {key.partition('.')[2] or key}", tuple(drawn))
            for (key, owner), drawn in lines.items() if drawn]


def _varying(tables: Sequence[dict[str, str]]) -> tuple[dict[str, dict[str, float]], set[str]]:
    """Of keys with enough numbers for a line the numbers by their texts; and the keys that tell any tables apart."""
    texts: dict[str, Counter[str]] = {}
    for key, text in (item for table in tables for item in table.items()):
        texts.setdefault(key, Counter())[text] += 1
    numbers = {key: {text: value for text in found if (value := _number(text)) is not None}
               for key, found in texts.items()}
    return ({key: found for key, found in numbers.items() if len(set(found.values())) >= FEWEST},
            {key for key, found in texts.items() if max(found.values()) < len(tables)})


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
    rows: dict[float, list[Row]] = {}
    for value, row in sorted(members, key=lambda member: member[0]):
        rows.setdefault(value, []).append(row)
    label = members[0][1].label
    parts = [text for part, text in (("attack", label.attack), ("defense", label.defense), ("", label.setting))
             if text not in ("", "none") and not key.startswith(f"{part}.")]
    if key.startswith("attack."):
        parameter = key.removeprefix("attack.")
        parts.insert(0, _without(label.attack, f"{parameter}={flat(members[0][1].record.spec)[key]}"))
    points: dict[str, tuple[Point, ...]] = {}
    for name in MEANS:
        columns = [[found for row in each if (found := row.means[name].after) is not None] for each in rows.values()]
        if all(columns):
            points[name] = tuple((statistics.fmean(c), min(c), max(c)) for c in columns)
    return Line(", ".join(parts), tuple(rows), points)


def _without(label: str, parameter: str) -> str:
    """A label such as "i2i (trigger.name=uap, epochs=3)" without one of its parameters."""
    for written in (f", {parameter}", f"{parameter}, ", parameter):
        label = label.replace(written, "")
    return label.removesuffix(" ()")
