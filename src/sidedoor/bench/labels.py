"""What tells cells apart: names of methods with those parameters that vary, and whatever else does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sidedoor.core.printable import visible


@dataclass(frozen=True)
class Label:
    """What tells a cell from the others, printable whatever files and classes are called.

    Args:
        attack, defense: the names, with those parameters that vary between cells of that name.
        setting: whatever else varies, the seed aside: data, model, recipe; empty if nothing does.
    """

    attack: str
    defense: str
    setting: str


def labels(specs: Sequence[dict[str, Any]]) -> list[Label]:
    """The label of each specification among all of them."""
    parts = list(dict.fromkeys(part for spec in specs for part in spec))
    told = {part: _told([spec.get(part) for spec in specs], part) for part in parts}
    others = [part for part in parts if part not in ("attack", "defense", "seed")]
    nothing = ["none"] * len(specs)
    settings = (", ".join(filter(None, texts))
                for texts in zip([""] * len(specs), *(told[part] for part in others), strict=True))
    return [Label(*map(visible, texts)) for texts in zip(
        told.get("attack", nothing), told.get("defense", nothing), settings, strict=True)]


def names(specs: Sequence[dict[str, Any]]) -> list[str]:
    """A short line for each specification that names only what varies; attack and defence if nothing does."""
    columns: list[list[str]] = [[], [], [], []]
    for spec, label in zip(specs, labels(specs), strict=True):
        for column, text in zip(columns, (label.setting, label.attack, label.defense, f"seed {spec.get('seed')}"),
                                strict=True):
            column.append(text)
    several = [column for column in columns if len(set(column)) > 1] or columns[1:3]
    return [", ".join(filter(None, line)) for line in zip(*several, strict=True)]


def flat(value: Any, prefix: str = "") -> dict[str, str]:
    """The leaves of nested tables by dotted keys; text as it is, anything else as JSON. Tables of a list are by their
    names.
    """
    if _several(value):
        return {f"{_name(each)}.{key}": text for each in value
                for key, text in flat({k: v for k, v in each.items() if k != "name"}, prefix).items()}
    if not isinstance(value, dict):
        return {prefix: value if isinstance(value, str) else json.dumps(value)}
    return {k: v for key, item in value.items() for k, v in flat(item, f"{prefix}.{key}" if prefix else key).items()}


def _told(given: Sequence[Any], part: str) -> list[str]:
    """What each cell's label says of a part of its specification; the same value is looked at once."""
    written = [json.dumps(value) for value in given]
    distinct = dict(zip(written, given, strict=True))
    varying = dict(zip(distinct, _varying(list(distinct.values())), strict=True))
    several = len(set(map(_name, distinct.values()))) > 1
    said = {key: _said(part, value, varying[key], several) for key, value in distinct.items()}
    return [said[key] for key in written]


def _varying(given: list[Any]) -> list[str]:
    """For each value the parameters, as text, that differ among the values of the same name."""
    tables = [flat(value) for value in given]
    seen: dict[tuple[str, str], set[str]] = {}
    for value, table in zip(given, tables, strict=True):
        for key, text in table.items():
            seen.setdefault((_name(value), key), set()).add(text)
    return [", ".join(f"{key}={text}" if key else text for key, text in table.items()
                      if key != "name" and len(seen[_name(value), key]) > 1)
            for value, table in zip(given, tables, strict=True)]


def _said(part: str, value: Any, varying: str, several: bool) -> str:
    """A part in words: attack and defence always, whatever else if it differs.

    Args:
        several: whether the part has several names.
    """
    if part in ("attack", "defense"):
        return _joined(_name(value), varying)
    if isinstance(value, dict) and "name" in value:
        return _joined(_name(value), varying) if several or varying else ""
    return f"{part} {varying}" if varying else ""


def _several(value: Any) -> bool:
    """Whether it is a list of methods."""
    return isinstance(value, list) and len(value) > 0 and all(isinstance(v, dict) and "name" in v for v in value)


def _name(reference: Any) -> str:
    if _several(reference):
        return "+".join(map(_name, reference))
    return str(reference.get("name", "")) if isinstance(reference, dict) else "none" if reference is None else ""


def _joined(name: str, parameters: str) -> str:
    return f"{name} ({parameters})" if parameters else name
