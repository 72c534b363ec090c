"""The threat-risk matrix of a store: likelihood and impact of every attack, from its records alone.

The formula is that of `sidedoor.metrics.risk`; ingredients are means over blocks (data, network, training) and over
seeds within them, and intervals resample blocks, then seeds. What has not been measured counts as what is worst for the
defender, is named, and has a run that would tell (`risk_missing`): no filter finds the poison, nothing happens to
images on their way, nobody defends at a stage. A poisoning rate that has not been tried counts as one that fails.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from sidedoor.apps.exposure import STAGES, Exposure, best_of, exposures, mean, measured
from sidedoor.apps.risk_missing import Missing, missing_of
from sidedoor.apps.threat import Threat, threat_of
from sidedoor.bench.record import Record
from sidedoor.core import opening
from sidedoor.errors import CannotComplete, ConfigError, unknown
from sidedoor.evidence import Verdict
from sidedoor.metrics.comparison import DRAWS
from sidedoor.metrics.risk import (
    IMPACT,
    LIKELIHOOD,
    Numbers,
    Sensitivity,
    Weights,
    access_score,
    impact,
    likelihood,
    sensitivity,
)

_LIMIT = 2**16
"""Bytes of a file of weights."""
INGREDIENTS = ("works", *LIKELIHOOD, *IMPACT)
MEASURED = ("works", "budget", "stealth", "transport", "stages", "least")


@dataclass(frozen=True)
class Value:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Ingredient:
    """A part of the formula; None where it means nothing for the attack.

    Args:
        keys: of the records that it is from; none for what the attack's own code declares.
        note: what decides it, in words.
    """

    value: float | None
    low: float | None
    high: float | None
    keys: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class Row:
    """An attack.

    Args:
        shown: False if it works in no block.
        failed: blocks in which it works in no seed.
        positive: a watermark, whose target counts as 0.
        benefit: of a positive use: the power of ownership tests in the records; None without any.
        band: of the risk; `bands`, those that the interval reaches.
        missing: runs that would say more.
    """

    name: str
    shown: bool
    failed: tuple[str, ...]
    positive: bool
    threat: Threat
    likelihood: Value
    impact: Value
    risk: Value
    band: str
    bands: tuple[str, str]
    ingredients: dict[str, Ingredient]
    blocks: tuple[str, ...]
    seeds: int
    benefit: float | None
    missing: tuple[Missing, ...]

    @property
    def words(self) -> str:
        """The band, with those that the interval reaches."""
        if not self.shown:
            return "not shown to work here"
        low, high = self.bands
        return self.band if low == high else f"{self.band} ({low}-{high})"


@dataclass(frozen=True)
class Matrix:
    """Attacks by their risk, the highest first, those that are not shown to work last."""

    rows: tuple[Row, ...]
    weights: Weights
    sensitivity: Sensitivity | None

    @property
    def threats(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if not row.positive)

    @property
    def watermarks(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.positive)

    def to_json(self) -> dict[str, Any]:
        """As JSON writes it."""
        return {"weights": {f.name: dict(getattr(self.weights, f.name)) for f in fields(Weights)},
                "sensitivity": self.sensitivity and self.sensitivity._asdict(),
                "attacks": [_plain(row) for row in self.rows]}


def _plain(row: Row) -> dict[str, Any]:
    return {f.name: getattr(row, f.name) for f in fields(Row)} | {
        "threat": vars(row.threat), "likelihood": vars(row.likelihood), "impact": vars(row.impact),
        "risk": vars(row.risk), "words": row.words,
        "ingredients": {name: vars(each) for name, each in row.ingredients.items()},
        "missing": [str(each) for each in row.missing]}


def matrix(records: Sequence[Record], weights: Weights | None = None) -> Matrix:
    """The matrix of some records.

    Raises:
        CannotComplete: no record is of an attack.
    """
    weights = weights or Weights()
    by_name: dict[str, list[Exposure]] = {}
    every = exposures(records)
    for each in every:
        if len(each.seeds) and not np.isnan(each.works.values).all():
            by_name.setdefault(each.name, []).append(each)
    if not by_name:
        raise CannotComplete("no record is of an attack that came to its end; run a specification with one first")
    power = _powers(records)
    rows = [_row(name, of, every, weights, power.get(of[0].attack["name"])) for name, of in by_name.items()]
    ordered = sorted(rows, key=lambda row: (not row.shown, -row.risk.value, row.name))
    compared = [row for row in ordered if row.shown and not row.positive]
    parts = {name: np.array([math.nan if (value := row.ingredients[name].value) is None else value for row in compared])
             for name in (*LIKELIHOOD, *IMPACT)}
    works = np.array([row.ingredients["works"].value for row in compared], float)
    return Matrix(tuple(ordered), weights, sensitivity(works, parts, weights) if len(compared) > 1 else None)


def weights_of(path: Path) -> Weights:
    """Weights from a TOML file, whose tables are the fields of `Weights`; what it leaves out stays as it is.

    Raises:
        ConfigError: it cannot be read, or has an unknown name or a value that is no number of at least 0.
    """
    try:
        table = tomllib.loads(opening.text(path, _LIMIT))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read the weights in {path}: {error}") from error
    plain = {f.name: dict(getattr(Weights(), f.name)) for f in fields(Weights)}
    for name, given in table.items():
        if name not in plain:
            raise unknown("table of weights", name, plain)
        if not isinstance(given, dict):
            raise ConfigError(f"{name} = {given!r} given; expected a table [{name}]")
        for key, value in given.items():
            if key not in plain[name]:
                raise unknown(f"weight of {name}", key, plain[name])
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ConfigError(f"{name}.{key} = {value!r} given; expected a number of at least 0")
            plain[name][key] = float(value)
    for name in ("likelihood", "impact"):
        if not any(plain[name].values()):
            raise ConfigError(f"all weights of {name} are 0; expected at least one above")
    bands = plain["bands"]
    if not bands["medium"] <= bands["high"] <= bands["critical"]:
        raise ConfigError(f"bands = {bands} given; expected medium <= high <= critical")
    return Weights(**plain)


def _row(name: str, of: list[Exposure], every: Sequence[Exposure], weights: Weights, power: float | None) -> Row:
    threat = threat_of(of[0].attack)
    data = threat.access == "data"
    drawn = _drawn(of, data, weights)
    point = {what: np.array([np.nanmean(values) if not np.isnan(values).all() else math.nan]) for what, values in
             _each(of, [np.ones((1, len(each.seeds))) for each in of], data, weights).items()}
    own = {"access": _access(threat, of[0].attack, of[0].spec, weights), "target": weights.target[threat.target]}
    parts = point | {what: np.array([value]) for what, value in own.items()}
    spread = drawn | {what: np.full(DRAWS, value) for what, value in own.items()}
    numbers = {"likelihood": (likelihood(parts["works"], parts, weights.likelihood),
                              likelihood(spread["works"], spread, weights.likelihood)),
               "impact": (impact(parts["works"], parts, weights.impact),
                          impact(spread["works"], spread, weights.impact))}
    (chance, chances), (harm, harms) = numbers["likelihood"], numbers["impact"]
    numbers["risk"] = chance * harm, chances * harms
    values = {what: Value(float(at[0]), *_ends(all_of)) for what, (at, all_of) in numbers.items()}
    shown = [each for each in of if each.shown]
    notes, keys = _told(shown or of, data, weights)
    ingredients = {what: _ingredient(parts[what], spread[what], keys.get(what, ()), notes.get(what, ""))
                   for what in INGREDIENTS}
    return Row(name, bool(shown), tuple(each.block for each in of if not each.shown), threat.target == "positive",
               threat, **values, band=weights.band(values["risk"].value),
               bands=(weights.band(values["risk"].low), weights.band(values["risk"].high)), ingredients=ingredients,
               blocks=tuple(each.block for each in of), seeds=min(len(each.seeds) for each in of),
               benefit=power if threat.target == "positive" else None,
               missing=tuple(need for each in shown for need in missing_of(each, threat, every)))


def _access(threat: Threat, attack: Any, spec: Any, weights: Weights) -> float:
    """Of the threat, where a surrogate of another architecture than the victim's costs nothing."""
    other = spec.get("surrogate") and spec["surrogate"]["name"] != spec["model"]["name"]
    return access_score(threat.access or "weights", threat.clean_label, threat.surrogate and not other,
                        threat.networked, weights)


def _each(of: Sequence[Exposure], counts: Sequence[Numbers], data: bool, weights: Weights) -> dict[str, Numbers]:
    """The measured ingredients of each block, one number each."""
    found = [measured(each, drawn, data, weights) for each, drawn in zip(of, counts, strict=True)]
    return {what: np.array([each[what][0] for each in found]) for what in MEASURED}


def _drawn(of: Sequence[Exposure], data: bool, weights: Weights) -> dict[str, Numbers]:
    """The measured ingredients under a bootstrap that draws blocks, then seeds within each."""
    rng = np.random.default_rng(0)
    chosen = rng.integers(len(of), size=(DRAWS, len(of)))
    values = {what: np.full(chosen.shape, math.nan) for what in MEASURED}
    for block, each in enumerate(of):
        places, seeds = chosen == block, len(each.seeds)
        counts = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=int(places.sum()))
        # There are few ways to draw a few seeds: each is worked out once.
        _, first, which = np.unique(counts @ (seeds + 1.0) ** np.arange(seeds), return_index=True, return_inverse=True)
        for what, found in measured(each, counts[first].astype(float), data, weights).items():
            values[what][places] = found[which]
    return {what: mean(found.T, np.ones((1, len(of))))[0] for what, found in values.items()}


def _ends(values: Numbers) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _ingredient(at: Numbers, drawn: Numbers, keys: tuple[str, ...], note: str) -> Ingredient:
    value = float(at[0])
    if math.isnan(value):
        return Ingredient(None, None, None, keys, note or "means nothing for this attack")
    known = drawn[~np.isnan(drawn)]
    return Ingredient(value, *(_ends(known) if known.size else (value, value)), keys, note)


def _told(of: Sequence[Exposure], data: bool, weights: Weights) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """For each ingredient what decides it, in words, and the records that it is from."""
    notes: dict[str, list[str]] = {}
    keys: dict[str, list[str]] = {}

    def tell(what: str, note: str, *found: tuple[str, ...]) -> None:
        if note:
            notes.setdefault(what, []).append(note)
        keys.setdefault(what, []).extend(key for each in found for key in each)

    for each in of:
        one = np.ones((1, len(each.seeds)))
        tell("works", f"{np.nansum(each.works.values):g} of {len(each.seeds)} seeds", each.works.keys)
        for rate, column in sorted(each.rates.items()):
            tell("budget", f"{100 * rate:.2g} % poisoned: {100 * np.nanmin(column.values):.0f} % at worst", column.keys)
        if not data:
            notes["budget"] = ["means nothing where the attacker does more than poison data"]
        _tell_stealth(each, data, tell)
        worst = min(each.transport.items(), key=lambda item: np.nanmean(item[1].values), default=None)
        tell("transport", f"worst: {worst[0]}" if worst else "nothing was tried", *([worst[1].keys] if worst else []))
        asr = np.array([np.nanmean(each.asr.values) if each.shown else 0.0])
        bests = {stage: best_of(each.stages.get(stage, {}), one, asr, stage, weights)
                 for stage in (*STAGES, "pipeline")}
        for stage, (left, name) in bests.items():
            if name:
                found = each.stages[stage][name].left.keys
                tell("stages", f"{stage.replace('_', ' ')}: {name} leaves {100 * left[0]:.1f} %", found)
        least = min(bests, key=lambda stage: bests[stage][0][0])
        if bests[least][1]:
            tell("least", f"{bests[least][1]}: {100 * bests[least][0][0]:.1f} %",
                 each.stages[least][bests[least][1]].left.keys)
    return ({what: "; ".join(dict.fromkeys(said)) for what, said in notes.items()},
            {what: tuple(dict.fromkeys(found)) for what, found in keys.items()})


def _tell_stealth(each: Exposure, data: bool, tell: Any) -> None:
    seen = [said.format(np.nanmean(column.values)) for said, column in (
        ("PSNR {:.1f} dB", each.psnr), ("SSIM {:.3f}", each.ssim)) if not np.isnan(column.values).all()]
    tell("stealth", " and ".join(seen), each.psnr.keys)
    if data and each.detected:
        name, best = max(each.detected.items(), key=lambda item: np.nan_to_num(item[1].values).mean())
        tell("stealth", f"{name} finds {100 * np.nan_to_num(best.values).mean():.0f} % at 5 % false alarms", best.keys)


def _powers(records: Sequence[Record]) -> dict[str, float]:
    """The highest power of an ownership test in the records, by attack."""
    found: dict[str, float] = {}
    for record in records:
        for each in record.evidence:
            if isinstance(each, Verdict) and each.power is not None:
                found[record.attack_name] = max(each.power, found.get(record.attack_name, 0.0))
    return found
