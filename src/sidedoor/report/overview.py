"""What a page says first: what its runs are of, all attacks against all defences, and what accuracy a defence costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from sidedoor.bench.record import Record
from sidedoor.report.tables import Aggregate, Row

NAMED = 3
"""So many values are named in the head of a page, more are counted."""
Dots = dict[str, list[tuple[float, float]]]
"""Attack and clean number of every run, by its defence."""


@dataclass(frozen=True)
class Head:
    """What the runs of a page are of.

    Args:
        title: networks, data and target.
        facts: the same and more, each with its name.
    """

    title: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Matrix:
    """Attacks by defences, each cell the runs that differ only in the seed, None where there are none."""

    defenses: tuple[str, ...]
    rows: tuple[tuple[Aggregate, tuple[Aggregate | None, ...]], ...]


def head(records: Sequence[Record], classes: Sequence[str], dates: Iterable[str]) -> Head:
    """The title and the facts of a page.

    Args:
        classes: names of the classes, empty where they are not known.
        dates: of the records, as YYYY-MM-DD.
    """
    specs = [record.spec for record in records]
    one_set = len({record.data for record in records}) == 1
    data, network, target = (_listed(values, plural) for values, plural in (
        ([data_name(spec.get("data")) for spec in specs], "data sets"),
        ([str((spec.get("model") or {}).get("name", "")) for spec in specs], "networks"),
        ([_target(spec.get("attack"), classes if one_set else ()) for spec in specs], "targets"),
    ))
    written = sorted(dates)
    resized = _listed((record.resized and f"resized from {record.resized}" for record in records), "sizes")
    facts = {"Data": data, "Images": resized, "Network": network, "Target": target,
             "Seeds": _listed(map(str, sorted({spec["seed"] for spec in specs if "seed" in spec})), "seeds"),
             "Dates": " to ".join(dict.fromkeys((written[0], written[-1]))) if written else ""}
    title = ", ".join(filter(None, (" on ".join(filter(None, (network, data))), target and f"target {target}")))
    return Head(title, tuple((name, value) for name, value in facts.items() if value))


def matrix(groups: Sequence[Aggregate]) -> Matrix | None:
    """Attacks against the defences that change the system; None unless there are several attacks with a defence."""
    changing = {group.label.defense for group in groups if "attack_before" in group.figures}
    shown = [group for group in groups if group.label.defense in changing | {"none"}]
    cells = {(group.label.setting, group.label.attack, group.label.defense): group for group in shown}
    defended = dict.fromkeys((s, a) for s, a, defense in cells if a != "none" and defense != "none")
    if len(defended) < 2:
        return None
    defenses = tuple(sorted({defense for s, a, defense in cells if (s, a) in defended},
                            key=lambda name: (name != "none", name)))
    rows = [tuple(cells.get((*row, defense)) for defense in defenses) for row in defended]
    return Matrix(defenses, tuple((next(filter(None, row)), row) for row in rows))


def dots(rows: Sequence[Row]) -> Dots:
    """Finished runs of attacked models by the name of the defence, detectors and audits aside; empty if undefended."""
    found: Dots = {}
    for row in rows:
        attack, clean = row.means["attack"].after, row.means["clean"].after
        undefended = row.label.defense == "none"
        if row.record.status != "done" or attack is None or clean is None or row.record.spec.get("attack") is None:
            continue
        if undefended or row.means["clean"].changed:
            found.setdefault("no defence" if undefended else row.record.defense_name, []).append((attack, clean))
    return dict(sorted(found.items(), key=lambda item: (item[0] != "no defence", item[0]))) if len(found) > 1 else {}


def _listed(values: Iterable[str], plural: str) -> str:
    several = list(dict.fromkeys(filter(None, values)))
    return ", ".join(several) if len(several) <= NAMED else f"{len(several)} {plural}"


def data_name(reference: Any) -> str:
    """The name of a data set, with that of its file or folder."""
    given = reference if isinstance(reference, Mapping) else {}
    place = PurePath(str(given["path"])).name if given.get("path") else ""
    return ": ".join(filter(None, (str(given.get("name", "")), place)))


def _target(attack: Any, classes: Sequence[str]) -> str:
    """What an attack leads to: a class by its name where that is known, else the name of its goal."""
    if not isinstance(attack, Mapping):
        return ""
    goal = attack.get("goal")
    if not isinstance(goal, Mapping):
        return _target(attack.get("attack"), classes)
    several = goal.get("target_classes", [goal["target_class"]] if "target_class" in goal else [])
    named = [_class(label, classes) for label in (several if isinstance(several, list | tuple) else [several])]
    return " and ".join(named) if 0 < len(named) <= NAMED else str(goal.get("name", "")).replace("_", "-")


def _class(label: Any, classes: Sequence[str]) -> str:
    known = isinstance(label, int) and 0 <= label < len(classes)
    return f"{classes[label]} (class {label})" if known and classes[label] != str(label) else f"class {label}"
