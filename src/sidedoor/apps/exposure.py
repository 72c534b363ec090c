"""What the records of a store say of an attack in one block: how often it works, at which rate, what is seen of it, and
what every defence leaves of it, by seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sidedoor.bench.labels import labels
from sidedoor.bench.record import NOT_APPLICABLE, Record, half_of
from sidedoor.metrics.risk import WORKS, Weights, budget_score, stealth_score, transport_score
from sidedoor.report.outcomes import AUDIT, DETECTOR, Outcome, outcomes, seed_of

Numbers = npt.NDArray[np.float64]
DATA_STAGES = ("filter", "training")
STAGES = (*DATA_STAGES, "repair", "audit_then_repair", DETECTOR, "purifier")
"""Stages of defence that a mean is over; the first two exist only where the defender has the training data."""
TRANSPORT: dict[str, dict[str, Any]] = {
    "flip": {}, "shrink_pad": {}, "jpeg": {"quality": 75}, "rotation": {}, "print_capture": {"strength": 0.5}}
"""What happens to images on their way, by the purifiers that do it."""


@dataclass(frozen=True)
class Column:
    """A number for each seed, NaN where there is none, and the records that it is from."""

    values: Numbers
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Left:
    """What a defence leaves of an attack, and what it costs in clean accuracy (a detector: its false alarms)."""

    left: Column
    cost: Numbers


@dataclass(frozen=True)
class Exposure:
    """An attack in one block.

    Args:
        attack: its reference, at the rate that most defences were tried at.
        spec: of one of its cells.
        seeds: of which anything is known.
        works: 1 for a seed whose attack works, 0 for one whose attack failed.
        asr: undefended; NaN where the attack failed.
        rates: success by what share of the training data is poisoned, failed attacks as 0; none where the attacker has
            no fixed training data.
        tried: the parameter `rate` of these.
        detected: share of the poisoned rows that each filter finds.
        transport: success after what happens on the way.
        stages: of each stage what each defence leaves; of pipelines as "pipeline".
        methods: names of the defences of which there is a record, whatever became of it, by stage.
    """

    name: str
    block: str
    attack: Mapping[str, Any]
    spec: Mapping[str, Any]
    seeds: tuple[int, ...]
    works: Column
    asr: Column
    psnr: Column
    ssim: Column
    rates: dict[float, Column] = field(default_factory=dict)
    tried: dict[float, float] = field(default_factory=dict)
    detected: dict[str, Column] = field(default_factory=dict)
    transport: dict[str, Column] = field(default_factory=dict)
    stages: dict[str, dict[str, Left]] = field(default_factory=dict)
    methods: dict[str, set[str]] = field(default_factory=dict)

    @property
    def shown(self) -> bool:
        """Whether the attack works here at all."""
        return bool(np.nansum(self.works.values))


def exposures(records: Sequence[Record]) -> list[Exposure]:
    """Every attack in every block, by name."""
    attacked = [record for record in records if record.spec.get("attack")]
    halves = [{part: without_rate(value) if part == "attack" else value for part, value in half_of(record.spec).items()}
              for record in attacked]
    grouped: dict[tuple[str, str], list[Record]] = {}
    for record, label in zip(attacked, labels(halves), strict=True):
        grouped.setdefault((label.attack, label.setting), []).append(record)
    return [_exposure(name, block, of) for (name, block), of in sorted(grouped.items())]


def without_rate(attack: Any) -> Any:
    """A reference without its poisoning rate, also within a strategy."""
    if not isinstance(attack, Mapping):
        return attack
    return {name: without_rate(value) if name == "attack" else value for name, value in attack.items()
            if name != "rate"}


def with_rate(attack: Mapping[str, Any], rate: float) -> dict[str, Any]:
    """A reference at another poisoning rate."""
    if "rate" in attack:
        return {**attack, "rate": rate}
    return {**attack, "attack": with_rate(attack["attack"], rate)}


def rate_of(attack: Any) -> float | None:
    """The parameter `rate` of a reference, or of the attack within it; None without."""
    if not isinstance(attack, Mapping):
        return None
    value = attack.get("rate", rate_of(attack.get("attack")))
    return float(value) if isinstance(value, int | float) else None


def measured(given: Exposure, counts: Numbers, data: bool, weights: Weights) -> dict[str, Numbers]:
    """The ingredients that are measured, for each way to draw seeds.

    Args:
        counts: (draws, seeds), how often each seed is drawn.
        data: the attacker poisons data, so that filters and training defences exist.

    Returns:
        works, budget (NaN without), stealth, transport, stages, least: (draws,). All but the first are of attacks that
        work, and NaN where none does.
    """
    works, nothing = mean(given.works.values, counts), np.full(len(counts), np.nan)
    if not given.shown:
        return {"works": works} | dict.fromkeys(("budget", "stealth", "transport", "stages", "least"), nothing)
    asr = np.nan_to_num(mean(given.asr.values, counts))
    found = np.stack([mean(each.values, counts) for each in given.detected.values()] or [nothing])
    detected = np.max(np.nan_to_num(found), axis=0) if data else nothing
    ways = np.stack([mean(each.values, counts) for each in given.transport.values()] or [asr])
    stages, least = _stages(given, counts, asr, data, weights)
    return {"works": works, "budget": _budget(given, counts) if data else nothing,
            "stealth": stealth_score(mean(given.psnr.values, counts), mean(given.ssim.values, counts), detected),
            "transport": transport_score(asr, np.nanmin(np.vstack([ways, asr]), axis=0)), "stages": stages,
            "least": least}


def mean(values: Numbers, counts: Numbers) -> Numbers:
    """Means over drawn seeds, those without a number left out; over all of them where none that was drawn has one.

    Args:
        values: (seeds,) or (seeds, n).
    """
    known = ~np.isnan(values)
    filled = np.where(known, values, 0)
    total, number = counts @ filled, counts @ known.astype(float)
    every = filled.sum(0) / np.where(known.any(0), known.sum(0), np.nan)
    found: Numbers = np.where(number > 0, total / np.maximum(number, 1), every)
    return found


def _budget(given: Exposure, counts: Numbers) -> Numbers:
    """The score of the least rate at which every drawn seed reaches `WORKS`; NaN where no rate is known."""
    if not given.rates:
        return np.full(len(counts), np.nan)
    least = np.full(len(counts), np.inf)
    for rate, column in sorted(given.rates.items(), reverse=True):
        known = ~np.isnan(column.values)
        below = known & (column.values < WORKS)
        drawn = counts @ known.astype(float) > 0
        fails = np.where(drawn, counts @ below.astype(float) > 0, below.any())
        least = np.where(fails, least, rate)
    return budget_score(least)


def _stages(given: Exposure, counts: Numbers, asr: Numbers, data: bool, weights: Weights) -> tuple[Numbers, Numbers]:
    """What the best defence of each stage leaves, at most the undefended rate: the mean over stages, and the least."""
    there = [stage for stage in STAGES if data or stage not in DATA_STAGES]
    best = {stage: best_of(given.stages.get(stage, {}), counts, asr, stage, weights)[0]
            for stage in (*there, "pipeline")}
    least: Numbers = np.min(list(best.values()), axis=0)
    return np.mean([best[stage] for stage in there], axis=0), least


def best_of(found: Mapping[str, Left], counts: Numbers, asr: Numbers, stage: str,
            weights: Weights) -> tuple[Numbers, str]:
    """What the best affordable defence leaves, and its name by the first draw; the undefended rate where none helps."""
    names = list(found)
    if not names:
        return asr, ""
    left = mean(np.stack([found[name].left.values for name in names], axis=1), counts)
    cost = mean(np.stack([found[name].cost for name in names], axis=1), counts)
    most = weights.cost["false_alarms" if stage == DETECTOR else "clean"]
    with np.errstate(invalid="ignore"):
        allowed = np.where((cost <= most + 1e-9) & ~np.isnan(left), left, np.inf)
    lowest = allowed.min(1)
    name = names[int(allowed[0].argmin())] if lowest[0] < asr[0] else ""
    best: Numbers = np.minimum(asr, lowest)
    return best, name


def _exposure(name: str, block: str, records: list[Record]) -> Exposure:
    main = _main_rate(records)
    own = [record for record in records if rate_of(record.spec["attack"]) == main]
    seeds = tuple(sorted({seed_of(record) for record in own}))
    models = _one_a_seed(own)
    column = {what: _column(seeds, {seed: value(record) for seed, record in models.items()}, models)
              for what, value in (("works", lambda r: float(r.status == "done")), ("asr", _undefended),
                                  ("psnr", lambda r: r.columns.get("psnr")), ("ssim", lambda r: r.columns.get("ssim")))}
    found = outcomes(own)
    budgets = _budgets(records, seeds)
    methods: dict[str, set[str]] = {}
    for each in found:
        if each.status in ("done", "attack failed", NOT_APPLICABLE):
            methods.setdefault(each.stage, set()).add(each.record.defense_name)
    return Exposure(
        name, block, own[0].spec["attack"], own[0].spec, seeds, column["works"], column["asr"], column["psnr"],
        column["ssim"], {share: each for share, (_, each) in budgets.items()},
        {share: rate for share, (rate, _) in budgets.items()},
        {method: _of(seeds, of, lambda o: o.record.separation.tpr_at_5 if o.record.separation else None)
         for method, of in _by_method(found, "filter").items()},
        {method: _of(seeds, of, lambda o: o.left) for method, of in _by_method(found, "purifier").items()
         if _is_transport(of[0].record)},
        _left(seeds, found), methods)


def _main_rate(records: Sequence[Record]) -> float | None:
    """The rate that most defences were tried at; of several the one with most records, then the least."""
    rates = [rate_of(record.spec["attack"]) for record in records]

    def key(rate: float | None) -> tuple[int, int, float]:
        of = [record for record, each in zip(records, rates, strict=True) if each == rate]
        return sum(bool(record.spec.get("defense")) for record in of), len(of), -(rate or 0.0)

    return max(dict.fromkeys(rates), key=key)


def _one_a_seed(records: Sequence[Record]) -> dict[int, Record]:
    """Of each seed a record that has numbers, the undefended one if there is one."""
    scored = sorted((r for r in records if r.scored and _undefended_numbers(r) is not None),
                    key=lambda r: (bool(r.spec.get("defense")), r.key))
    found: dict[int, Record] = {}
    for record in scored:
        found.setdefault(seed_of(record), record)
    return found


def _undefended_numbers(record: Record) -> float | None:
    return (record.undefended or {}).get("attack") if record.spec.get("defense") else record.attack


def _undefended(record: Record) -> float | None:
    return _undefended_numbers(record) if record.status == "done" else None


def _budgets(records: Sequence[Record], seeds: tuple[int, ...]) -> dict[float, tuple[float, Column]]:
    """By what share of the training data is poisoned: the parameter, and the success of each seed, 0 if it failed."""
    found: dict[float, tuple[float, Column]] = {}
    for rate in dict.fromkeys(rate_of(record.spec["attack"]) for record in records):
        models = _one_a_seed([record for record in records if rate_of(record.spec["attack"]) == rate])
        shares = [r.samples.get("poisoned", 0) / r.samples["train"] for r in models.values() if r.samples.get("train")]
        if rate is not None and shares and max(shares) > 0:
            values = {seed: _undefended(record) or 0.0 for seed, record in models.items()}
            found[float(np.mean(shares))] = rate, _column(seeds, values, models)
    return found


def _column(seeds: Sequence[int], values: Mapping[int, float | None], records: Mapping[int, Record]) -> Column:
    numbers = [np.nan if (value := values.get(seed)) is None else value for seed in seeds]
    return Column(np.array(numbers, float), tuple(records[seed].key for seed in seeds if seed in records))


def _by_method(found: Sequence[Outcome], stage: str) -> dict[str, list[Outcome]]:
    methods: dict[str, list[Outcome]] = {}
    for each in found:
        if each.stage == stage and each.status == "done":
            methods.setdefault(each.method, []).append(each)
    return methods


def _of(seeds: Sequence[int], of: Sequence[Outcome], value: Any) -> Column:
    return _column(seeds, {each.seed: value(each) for each in of}, {each.seed: each.record for each in of})


def _is_transport(record: Record) -> bool:
    given = record.spec["defense"]
    wanted = TRANSPORT.get(given["name"])
    return wanted is not None and all(given.get(name) == value for name, value in wanted.items())


def _left(seeds: Sequence[int], found: Sequence[Outcome]) -> dict[str, dict[str, Left]]:
    """By stage; an audit, then each repair if it raises an alarm."""
    stages: dict[str, dict[str, Left]] = {}
    for stage in (*(s for s in STAGES if s != "audit_then_repair"), "pipeline"):
        stages[stage] = {method: Left(_of(seeds, scored, lambda o: o.left), _cost(seeds, scored))
                         for method, of in _by_method(found, stage).items() if (scored := [o for o in of if o.scored])}
    alarms = {method: _of(seeds, of, lambda o: _flagged(o.record)) for method, of in _by_method(found, AUDIT).items()}
    attacked = {o.seed: o.before.attack for o in found if o.before and o.status == "done"}
    before = np.array([attacked.get(seed, np.nan) for seed in seeds])
    stages["audit_then_repair"] = {
        f"{audit}, then {repair}": Left(
            Column(np.where(alarm.values == 0, before, each.left.values + 0 * alarm.values),
                   alarm.keys + each.left.keys), alarm.values * each.cost)
        for audit, alarm in alarms.items() for repair, each in stages["repair"].items()}
    return {stage: of for stage, of in stages.items() if of}


def _cost(seeds: Sequence[int], scored: Sequence[Outcome]) -> Numbers:
    """The fall of the clean accuracy; of a detector the share of clean images that it refuses."""
    def cost(each: Outcome) -> float:
        assert each.before is not None
        assert each.after is not None
        fall = each.before.clean - each.after.clean
        return fall / each.before.clean if each.stage == DETECTOR and each.before.clean else fall

    return _of(seeds, scored, cost).values


def _flagged(record: Record) -> float | None:
    """Whether an audit raises an alarm: by its paper's rule, without one if the model is above all clean ones."""
    audit = record.audit
    if audit is None:
        return None
    return float(audit.finding.paper.flagged if audit.finding.paper else bool(audit.references) and audit.above_all)
