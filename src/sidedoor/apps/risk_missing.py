"""What has not been measured of an attack, as sweep files that would measure it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sidedoor.apps.exposure import DATA_STAGES, TRANSPORT, Exposure, rate_of, with_rate
from sidedoor.apps.threat import Threat
from sidedoor.metrics.risk import RATES, WORKS
from sidedoor.report import toml
from sidedoor.report.outcomes import AUDIT, DETECTOR

SUGGESTED = {"filter": "spectral_signatures", "training": "abl", "repair": "fine_pruning", AUDIT: "neural_cleanse",
             DETECTOR: "strip", "purifier": "shrink_pad"}
"""Of each stage the defence that is asked for where a store has none: the most widely used one that is quick."""
_OF_A_CELL = ("attack", "defense", "seed", "after")


@dataclass(frozen=True)
class Missing:
    """A run that would say more of an attack in a block.

    Args:
        what: in words.
        attack: that is run, at the rate that is run.
        defense: that is run, None for the attack alone.
        base: the rest of the specification.
        data: the attacker poisons data.
    """

    what: str
    attack: Mapping[str, Any]
    defense: str | Mapping[str, Any] | None
    base: Mapping[str, Any]
    seeds: tuple[int, ...]
    data: bool

    def __str__(self) -> str:
        return self.what


def missing_of(given: Exposure, threat: Threat, every: Sequence[Exposure]) -> list[Missing]:
    """What is missing of an attack in a block; nothing of one that does not work there.

    Args:
        every: further attacks, whose defences are asked for before those that nobody has run.
    """
    data, base = threat.access == "data", {k: v for k, v in given.spec.items() if k not in _OF_A_CELL}
    where = f" in {given.block}" if given.block else ""
    found = [Missing(f"success at a poisoning rate of {rate:g}{where}", with_rate(given.attack, rate), None, base,
                     given.seeds, data) for rate in _untried(given) if data]
    for name, wanted in TRANSPORT.items():
        if not any(method.split(" ")[0] == name for method in given.transport):
            found.append(Missing(f"success after {name}{where}", given.attack, {"name": name, **wanted}, base,
                                 given.seeds, data))
    for stage, suggested in SUGGESTED.items():
        if not given.methods.get(stage) and (data or stage not in DATA_STAGES):
            name = _usual(stage, every) or suggested
            words = "audit, and repair of what it flags" if stage == AUDIT else f"defence at the stage {stage}"
            found.append(Missing(f"any {words.replace('_', ' ')} ({name}){where}", given.attack, name, base,
                                 given.seeds, data))
    return found


def files_of(missing: Sequence[Missing]) -> dict[str, str]:
    """Sweep files by name. Attacks share one where their cells cross: what a store has, a sweep does not run again."""
    grouped: dict[tuple[str, str, tuple[int, ...]], list[Missing]] = {}
    for each in missing:
        kind = "rates" if each.defense is None else "data" if each.data else "models"
        base = json.dumps(each.base, sort_keys=True)
        grouped.setdefault((kind, base, each.seeds), []).append(each)
    found: dict[str, str] = {}
    for (kind, _, seeds), of in grouped.items():
        grid: dict[str, Any] = {"seed": list(seeds), "attack": _once([each.attack for each in of])}
        if kind != "rates":
            grid["defense"] = _once([each.defense for each in of])
        number = sum(name.startswith(kind) for name in found)
        found[f"{kind}{f'-{number + 1}' if number else ''}.toml"] = toml.dumps({**of[0].base, "grid": grid})
    return found


def _untried(given: Exposure) -> list[float]:
    """Rates of the list that would tell the least one that works: between the highest that is known to fail and the
    lowest that is known to work.
    """
    if rate_of(given.attack) is None:
        return []
    known = {given.tried[share]: bool((column.values[column.values == column.values] >= WORKS).all())
             for share, column in given.rates.items()}
    works = min((rate for rate, enough in known.items() if enough), default=float("inf"))
    fails = max((rate for rate, enough in known.items() if not enough and rate < works), default=0.0)
    return [rate for rate in RATES if fails < rate < works]


def _usual(stage: str, every: Sequence[Exposure]) -> str:
    """The defence of a stage that most attacks of a store have met; empty if none has."""
    met = Counter(name for each in every for name in sorted(each.methods.get(stage, ())))
    return met.most_common(1)[0][0] if met else ""


def _once(values: Sequence[Any]) -> list[Any]:
    return list({json.dumps(value, sort_keys=True): value for value in values}.values())
