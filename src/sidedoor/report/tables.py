"""Table rows from records: one row per run, and means over seeds, for the terminal, Markdown and HTML alike."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sidedoor.bench.labels import Label, labels
from sidedoor.bench.record import NOT_APPLICABLE, Record
from sidedoor.core.terms import Terms
from sidedoor.evidence import Calibrated
from sidedoor.metrics.statistics import t_interval
from sidedoor.report.outcomes import Outcome, outcomes

MEANS = ("clean", "attack", "recovered", "idle")
DETECTION = ("auroc", "tpr_at_1", "tpr_at_5", "accepted")
EFFECT = ("der", "net", "regained")
STATUS = {"done": "done", "failed": "attack failed", NOT_APPLICABLE: NOT_APPLICABLE, "error": "error",
          "timeout": "timeout"}
Interval = tuple[float, float | None, float | None]
"""Mean, low, high; one value has no low and high."""
FEWEST = 3
"""Seeds that a t interval needs to say anything: that of two is 12.7 standard errors wide on either side."""


@dataclass(frozen=True)
class Change:
    """A mean of the delivered system, and of the undefended one where a defence made a difference to any mean."""

    after: float | None
    before: float | None = None
    changed: bool = False
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Row:
    """One record.

    Args:
        model: key of the trained model; for a run that ended before it had one, that of runs of the same attack half.
        means: clean, attack, recovered and idle.
        detection: auroc, tpr_at_1, tpr_at_5 and accepted; None for defences that do not detect.
        effect: what a defence of an attacked model changed: `der` and `net` as ranks have them, input detectors end to
            end, and how much of the accuracy under attack is `regained`; None where a defence changes or refuses
            nothing.
        audit: the result of a model audit, in words.
        status: in words.
    """

    record: Record
    model: str
    label: Label
    seed: int
    means: dict[str, Change]
    detection: dict[str, float | None]
    effect: dict[str, float | None]
    audit: str | None
    seconds: float
    status: str


@dataclass(frozen=True)
class Aggregate:
    """Records whose specifications differ only in the seed.

    Args:
        done: those that enter the means.
        left_out: those that do not: the attack failed, a method is not applicable, an error, a timeout.
        figures: mean over seeds with the 95 % t interval within [0, 1], of two seeds with their range: of MEANS, of the
            same with the suffix `_before` for undefended models if the defence changes any, of `clean_model` (clean
            accuracy of the clean siblings), of DETECTION and EFFECT (differences within [-1, 1]), of `flagged` (share
            of the models that an audit flags by its paper's rule), and of `p` (of audits).
    """

    label: Label
    done: tuple[Record, ...]
    left_out: tuple[Record, ...]
    figures: dict[str, Interval]


def summary_rows(records: Sequence[Record]) -> list[Row]:
    """One row per record: settings together, each attack before its defences, seeds in order."""
    named = labels([record.spec for record in records])
    models = {_half(r): r.key for r in records} | {_half(r): r.planted for r in records if r.planted}
    effects = {outcome.record.key: _effect(outcome) for outcome in outcomes(records)}
    rows = [_row(record, record.planted or models[_half(record)], label, effects.get(record.key, {}))
            for record, label in zip(records, named, strict=True)]
    return sorted(rows, key=lambda r: (r.label.setting, r.label.attack != "none", r.label.attack, r.seed, r.model,
                                       r.label.defense != "none", r.label.defense, r.record.key))


def aggregate(records: Sequence[Record]) -> list[Aggregate]:
    """Means over seeds; cells that are not done stay out of them and are listed."""
    return grouped(summary_rows(records))


def grouped(rows: Sequence[Row]) -> list[Aggregate]:
    """As `aggregate`, of the rows of a summary."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_without_seed(row.record), []).append(row)
    return [_aggregate(rows) for rows in groups.values()]


def audited(audit: Calibrated) -> str:
    """A model audit in words: by the paper's own rule, and against clean models trained the same way."""
    rule, suspected = audit.finding.paper, audit.finding.suspected
    parts = [] if rule is None else ["flagged" if rule.flagged else "not flagged"]
    if suspected and (rule is None or rule.flagged):
        parts.append(f"class{'es' if len(suspected) > 1 else ''} {', '.join(map(str, suspected))}")
    said = [", ".join(parts)] if parts else []
    if audit.references:
        said.append(f"{'above all' if audit.above_all else 'within'} {len(audit.references)} clean")
    return "; ".join(said)


def not_applicable(group: Aggregate) -> bool:
    """Whether none of its cells can be."""
    return not group.done and all(record.status == NOT_APPLICABLE for record in group.left_out)


def effect_headings(terms: Terms) -> dict[str, str]:
    """What columns of EFFECT are called."""
    unit = " %" if terms.shares else ""
    return {"der": f"DER{unit}", "net": f"Net{unit}", "regained": f"{terms.recovered} gained{unit}"}


def bracketed(low: float | None, high: float | None, shown: Callable[[float], str]) -> str:
    """An interval as tables write it, such as "[12.1, 28.4]"; empty where there is none."""
    return "" if low is None or high is None else f"[{shown(low)}, {shown(high)}]"


def note_on_seeds(groups: Sequence[Aggregate]) -> str:
    """What the brackets beside means over seeds hold; empty where no group has several seeds."""
    counts = {len(group.done) for group in groups}
    few, many = FEWEST - 1 in counts, max(counts, default=0) >= FEWEST
    interval = "the 95 % Student t interval over seeds, within the possible range"
    if many:
        return f"In brackets: {interval}{f'; where there are {FEWEST - 1} seeds, their range' if few else ''}."
    return f"In brackets: the range of {FEWEST - 1} seeds; an interval takes {FEWEST}." if few else ""


def percent(value: float | None, missing: str = "–") -> str:
    """A share as a percentage with one decimal."""
    return missing if value is None or math.isnan(value) else f"{value * 100:.1f}"


def decimal(value: float | None, missing: str = "–") -> str:
    """A number with three decimals."""
    return missing if value is None or math.isnan(value) else f"{value:.3f}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _effect(outcome: Outcome) -> dict[str, float | None]:
    """What a scored cell has of EFFECT."""
    if not outcome.scored:
        return {}
    before, after = (numbers.recovered if numbers else None for numbers in (outcome.before, outcome.after))
    return {"der": outcome.der, "net": outcome.net,
            "regained": None if before is None or after is None else after - before}


def _row(record: Record, model: str, label: Label, effect: Mapping[str, float | None]) -> Row:
    before = record.undefended if record.spec.get("defense") else None
    changed = before is not None and any(before.get(name) != getattr(record, name) for name in MEANS)
    intervals = {name: _within(interval) for name, interval in record.intervals.items()}
    means = {name: Change(getattr(record, name), (before or {}).get(name), changed, intervals.get(name))
             for name in MEANS}
    return Row(record, model, label, int(record.spec.get("seed") or 0), means,
               {name: getattr(record.separation, name, record.columns.get(name)) for name in DETECTION},
               {name: effect.get(name) for name in EFFECT},
               audited(record.audit) if record.audit else None, record.seconds,
               STATUS.get(record.status, record.status))


def _aggregate(rows: list[Row]) -> Aggregate:
    done = [row for row in rows if row.record.status == "done"]
    changed = any(row.means["clean"].changed for row in done)
    sources: dict[str, Callable[[Row], float | None]] = {}
    for name in MEANS:
        sources[name] = lambda r, name=name: r.means[name].after  # type: ignore[misc]
        if changed:
            sources[f"{name}_before"] = lambda r, name=name: r.means[name].before  # type: ignore[misc]
    for name in DETECTION:
        sources[name] = lambda r, name=name: r.detection[name]  # type: ignore[misc]
    sources["flagged"] = lambda r: _flagged(r.record)
    sources["p"] = lambda r: r.record.audit.p if r.record.audit else None
    sources["clean_model"] = lambda r: (r.record.clean_means or {}).get("clean")
    figures = {name: interval for name, source in sources.items() if (interval := _interval(map(source, done)))}
    for name in EFFECT:
        if signed := _interval((row.effect[name] for row in done), lowest=0.0 if name == "der" else -1.0):
            figures[name] = signed
    return Aggregate(rows[0].label, tuple(row.record for row in done),
                     tuple(row.record for row in rows if row.record.status != "done"), figures)


def _flagged(record: Record) -> bool | None:
    """Whether an audit's paper flags the model; None without a rule."""
    rule = record.audit.finding.paper if record.audit else None
    return rule.flagged if rule else None


def _interval(values: Iterable[float | None], lowest: float = 0.0) -> Interval | None:
    present = [float(value) for value in values if value is not None]
    if not present:
        return None
    mean, low, high = t_interval(present)
    if low is None or high is None:
        return mean, None, None
    return (mean, *_within((low, high), lowest)) if len(present) >= FEWEST else (mean, min(present), max(present))


def _within(interval: tuple[float, float], lowest: float = 0.0) -> tuple[float, float]:
    """The part of an interval in which shares and similarities can lie, or differences of them."""
    return max(interval[0], lowest), min(interval[1], 1.0)


def _without_seed(record: Record) -> str:
    return json.dumps({k: v for k, v in record.spec.items() if k != "seed"}, sort_keys=True)


def _half(record: Record) -> str:
    """What decides the trained model."""
    ignored = ("defense", "references", "assumed_rate")
    return json.dumps({k: v for k, v in record.spec.items() if k not in ignored}, sort_keys=True)
