"""Ranks of the defences of a store: over which blocks and seeds, what is left out, and what they cannot say."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sidedoor.bench.record import NOT_APPLICABLE, Record
from sidedoor.errors import CannotComplete, unknown
from sidedoor.metrics.comparison import block_mean, hierarchical_interval
from sidedoor.metrics.ranking import (
    LEAST,
    MISSING,
    Field,
    Friedman,
    Score,
    Scores,
    Standing,
    Versus,
    against,
    critical_difference,
    field,
    friedman,
    mean_ranks,
    standings,
)
from sidedoor.report.outcomes import AUDIT, BROKEN, Outcome, outcomes, reason_of

BY: dict[str, tuple[str, Callable[[Outcome], float]]] = {
    "net": ("fall of the success rate, or rise of the accuracy under attack if that is less, minus the cost in clean "
            "accuracy", lambda outcome: outcome.net),
    "der": ("defence effectiveness rating", lambda outcome: outcome.der),
    "asr": ("success rate that is left, whatever the cost", lambda outcome: -outcome.left),
}
NO_EFFECT = 0.5
"""The DER of a defence that does nothing."""
FEWEST = 3
"""Seeds below which a mean says little of others."""
Mean = tuple[float, float, float]
"""With the ends of its 95 % interval."""


@dataclass(frozen=True)
class Line:
    """One method.

    Args:
        standing: None if it is not ranked, and `unranked`, why.
        net, der, left: means over its own blocks, of their means over seeds; None without a result.
        der_all: the same of the DER where cells that broke count as no effect.
        worst: the block with the least net, and that.
        versus: the baseline; None of the baseline itself, and without one.
        blocks: with a result.
        seeds: the least number of them in a block.
        cells: how many ended how: done, attack failed, not applicable, error, timeout.
        seconds: the median time of the defence.
        reasons: why cells have no result, each once.
    """

    method: str
    stage: str
    standing: Standing | None
    unranked: str
    net: Mean | None
    der: Mean | None
    left: Mean | None
    der_all: float | None
    worst: tuple[str, float] | None
    versus: Versus | None
    blocks: int
    seeds: int
    cells: dict[str, int]
    seconds: float | None
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Ranking:
    """The ranking of a store.

    Args:
        by: a key of `BY`.
        field: what was ranked.
        test: None where there are too few blocks.
        difference: Nemenyi's critical difference; None without a test.
        limits: what the ranking cannot say, in words.
    """

    by: str
    baseline: str
    field: Field
    lines: tuple[Line, ...]
    test: Friedman | None
    difference: float | None
    limits: tuple[str, ...]

    @property
    def ranked(self) -> dict[str, float]:
        """The mean rank of each method that has one, the best first."""
        return {line.method: line.standing.rank for line in self.lines if line.standing}

    def to_json(self) -> dict[str, Any]:
        """As JSON writes it."""
        own = {name: getattr(self, name) for name in ("by", "baseline", "difference", "limits")}
        plain = own | {"blocks": self.field.blocks, "blocks_left_out": self.field.left_out, "seeds": self.field.seeds,
                       "test": self.test and self.test._asdict(), "methods": [_plain(line) for line in self.lines]}
        return {name: _finite(value) for name, value in plain.items()}


def _finite(value: Any) -> Any:
    """With None for what JSON has no number for: an infinite statistic, the mean of nothing."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(line: Line) -> dict[str, Any]:
    return asdict(line) | {"standing": line.standing and line.standing._asdict(),
                           "versus": line.versus and line.versus._asdict()}


def rank(records: Sequence[Record], by: str = "net", baseline: str = "fine_tuning") -> Ranking:
    """Rank the defences of some records.

    Args:
        by: "net", "der" or "asr".
        baseline: the method that all others are tested against; none is if it has no result here.

    Raises:
        ConfigError: an unknown number to rank by.
        CannotComplete: no record is of a defended attack.
    """
    if by not in BY:
        raise unknown("number to rank by", by, BY)
    found = outcomes(records)
    if not found:
        raise CannotComplete("no record is of an attack with a defence; run a specification with `defenses` first")
    ending = [each for each in found if each.stage != AUDIT]
    scores = scores_of(ending, by)
    given = field(scores)
    stood = standings(given) if given.tables else {}
    tested = against(scores, baseline) if baseline in scores else {}
    enough = len(given.methods) > 1 and len(given.blocks) >= LEAST
    lines = [_line(method, [each for each in found if each.method == method], given, stood.get(method),
                   tested.get(method)) for method in dict.fromkeys(each.method for each in found)]
    difference = critical_difference(len(given.methods), len(given.blocks)) if enough else None
    return Ranking(by, baseline, given, tuple(sorted(lines, key=_order)),
                   friedman(mean_ranks(given), len(given.blocks)) if enough else None, difference,
                   tuple(_limits(given, difference, baseline, baseline in scores, lines)))


def scores_of(found: Sequence[Outcome], by: str) -> Scores:
    """Of each method, block and seed, those that count in means; a method without any has no block."""
    scores: dict[str, dict[str, dict[int, Score]]] = {each.method: {} for each in found}
    for each in found:
        if each.scored and each.after is not None:
            of = scores[each.method].setdefault(each.block, {})
            of[each.seed] = Score(BY[by][1](each), each.after.attack, each.after.clean)
    return scores


def _order(line: Line) -> tuple[bool, float, str]:
    return line.standing is None, line.standing.rank if line.standing else 0.0, line.method


def _line(method: str, of: list[Outcome], given: Field, standing: Standing | None, versus: Versus | None) -> Line:
    scored = [each for each in of if each.scored]
    counts = {status: sum(each.status == status for each in of)
              for status in ("done", "attack failed", NOT_APPLICABLE, *BROKEN)}
    net = by_block(scored, lambda each: each.net)
    worst = min(((block, sum(v) / len(v)) for block, v in net.items()), key=lambda item: item[1], default=None)
    times = sorted(each.record.timing.get("defense", each.record.seconds) for each in scored)
    left_out = given.unranked.get(method, "no block is one that all methods have") if scored else _why(of)
    return Line(method, of[0].stage, standing, "" if standing else left_out, _mean(net),
                _mean(by_block(scored, lambda each: each.der)), _mean(by_block(scored, lambda each: each.left)),
                _with_broken(of), worst, versus, len(net), min(map(len, net.values()), default=0), counts,
                times[len(times) // 2] if times else None,
                tuple(dict.fromkeys(reason_of(each) for each in of if not each.scored)))


def _why(of: list[Outcome]) -> str:
    return "; ".join(dict.fromkeys(reason_of(each) for each in of))


def by_block(scored: Sequence[Outcome], value: Callable[[Outcome], float]) -> dict[str, list[float]]:
    """Values of seeds, by block."""
    found: dict[str, list[float]] = {}
    for each in scored:
        found.setdefault(each.block, []).append(value(each))
    return found


def _mean(blocks: dict[str, list[float]]) -> Mean | None:
    if not blocks:
        return None
    values = list(blocks.values())
    return (block_mean(values), *hierarchical_interval(values))


def _with_broken(of: list[Outcome]) -> float | None:
    """The mean DER where cells that crashed or took too long count as no effect."""
    values: dict[str, list[float]] = {}
    for each in of:
        if each.scored or each.status in BROKEN:
            values.setdefault(each.block, []).append(each.der if each.scored else NO_EFFECT)
    return block_mean(list(values.values())) if values else None


def _limits(given: Field, difference: float | None, baseline: str, there: bool, lines: list[Line]) -> list[str]:
    """What the ranking cannot say."""
    blocks, methods = len(given.blocks), len(given.methods)
    said = []
    if difference is None:
        said.append(f"{blocks} block{'s' * (blocks != 1)} of {methods} method{'s' * (methods != 1)}: no test; one "
                    f"takes {LEAST} blocks and two methods. The order is of these blocks only.")
    else:
        said.append(f"Mean ranks that differ by less than {difference:.2f} (Nemenyi, {methods} methods, {blocks} "
                    "blocks, level 0.05) are not told apart.")
    if given.left_out:
        said.append("Left out of the ranks, since some ranked method has no seed in common with the others there: "
                    f"{'; '.join(given.left_out)}.")
    if blocks and given.seeds[0] < FEWEST:
        said.append(f"Some blocks have {given.seeds[0]} seed{'s' * (given.seeds[0] != 1)}: what another seed would "
                    "give is hardly in the intervals.")
    if not there:
        said.append(f"No comparison with a baseline: {baseline} has no result here.")
    if any(line.cells["attack failed"] for line in lines):
        said.append("Cells whose attack failed are in no mean and no rank.")
    if any(line.cells[status] for line in lines for status in BROKEN):
        said.append("Cells that crashed or took too long are in no rank; in the second mean of DER they count as no "
                    "effect, 0.5.")
    return [*said, f"A method that lacks more than {MISSING:.0%} of the blocks is not ranked. Ranks say nothing of "
            "other attacks, of attackers who know the defence, or of parameters that were not run."]
