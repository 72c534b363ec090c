"""What each defence did to each attack, from the records of a store: before and after, by block and seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sidedoor import registry
from sidedoor.bench.labels import labels
from sidedoor.bench.record import NOT_APPLICABLE, Record, half_of
from sidedoor.errors import ConfigError
from sidedoor.evidence import Separation
from sidedoor.metrics.comparison import der, net

DETECTOR, AUDIT, PIPELINE = "input_detector", "audit", "pipeline"
BROKEN = ("error", "timeout")
FALSE_ALARMS = 0.05
"""The nominal rate at which detectors refuse clean inputs, as records have it."""


class Numbers(NamedTuple):
    """Clean accuracy, success rate of the attack and accuracy under attack, in [0, 1]."""

    clean: float
    attack: float
    recovered: float | None = None


@dataclass(frozen=True)
class Outcome:
    """One defended cell.

    Args:
        method: the defence or pipeline, with those parameters that vary.
        stage: of the defence.
        block: attack, data and network.
        before, after: None where there are no numbers. A detector's are end to end: what is refused is neither wrong
            nor right, so the attack is what is accepted and wrong, and false alarms cost accuracy; nothing is
            recovered.
        status: of the record, "attack failed" for a failed one and for a cell that broke on an attack that failed.
    """

    record: Record
    method: str
    stage: str
    block: str
    seed: int
    before: Numbers | None
    after: Numbers | None
    status: str

    @property
    def scored(self) -> bool:
        """Whether it counts in means."""
        return self.status == "done" and self.after is not None

    @property
    def der(self) -> float:
        """Of a scored one."""
        before, after = self._numbers()
        return der((before.clean, after.clean), (before.attack, after.attack))

    @property
    def net(self) -> float:
        """Of a scored one. What a detector refuses counts as recovered: it harms nobody, and costs what false alarms
        cost.
        """
        before, after = self._numbers()
        fall = before.attack - after.attack
        recovered = (0.0, fall) if before.recovered is None or after.recovered is None else \
            (before.recovered, after.recovered)
        return net((before.clean, after.clean), (before.attack, after.attack), recovered)

    @property
    def left(self) -> float:
        """The success rate that is left, of a scored one."""
        return self._numbers()[1].attack

    def _numbers(self) -> tuple[Numbers, Numbers]:
        if self.before is None or self.after is None:
            raise ValueError(f"the cell {self.record.key} has no numbers: {self.status}")
        return self.before, self.after


def outcomes(records: Sequence[Record]) -> list[Outcome]:
    """The defended cells of attacks."""
    attacked = [record for record in records if record.spec.get("attack")]
    blocks = blocks_of(attacked)
    methods = labels([record.spec for record in attacked])
    seen = {(block, seed_of(record)): record.status for record, block in zip(attacked, blocks, strict=True)
            if record.scored}
    return [_outcome(record, label.defense, block, seen)
            for record, label, block in zip(attacked, methods, blocks, strict=True) if record.spec.get("defense")]


def blocks_of(records: Sequence[Record]) -> list[str]:
    """The block of each: the attack, then whatever of data, network and training varies among all of them."""
    halves = [half_of(record.spec, "seed") for record in records]
    return [", ".join(filter(None, (label.attack, label.setting))) for label in labels(halves)]


def seed_of(record: Record) -> int:
    return int(record.spec.get("seed") or 0)


def stage_of(record: Record) -> str:
    """Of the defence; "pipeline" for several, and "unknown" if no package brings it any more."""
    given = record.spec["defense"]
    if isinstance(given, list):
        return PIPELINE
    try:
        return registry.find(given["name"], "defense").stage or "unknown"
    except ConfigError:
        return "unknown"


def _outcome(record: Record, method: str, block: str, seen: dict[tuple[str, int], str]) -> Outcome:
    seed = seed_of(record)
    broken_for_nothing = record.status in BROKEN and seen.get((block, seed)) == "failed"
    status = "attack failed" if record.status == "failed" or broken_for_nothing else record.status
    before = _numbers(record.undefended or {})
    return Outcome(record, method, stage_of(record), block, seed, before, before and _after(record, before), status)


def _numbers(means: dict[str, float | None]) -> Numbers | None:
    clean, attack = means.get("clean"), means.get("attack")
    return None if clean is None or attack is None else Numbers(clean, attack, means.get("recovered"))


def _after(record: Record, before: Numbers) -> Numbers | None:
    """What is delivered; None of a defence that delivers nothing, as an audit does."""
    delivered = _numbers({name: getattr(record, name) for name in Numbers._fields})
    alarm = next((e for e in record.evidence if isinstance(e, Separation) and e.removed_poisoned is None), None)
    if alarm is not None and delivered is not None:
        accepted = record.columns.get("accepted")
        missed = 1 - (alarm.tpr_at_5 or 0.0)
        return Numbers(delivered.clean * (1 - (FALSE_ALARMS if alarm.fpr_at_5 is None else alarm.fpr_at_5)),
                       delivered.attack * missed if accepted is None else accepted)
    return None if stage_of(record) == AUDIT else delivered


def reason_of(outcome: Outcome) -> str:
    """Why a cell is in no mean, in words."""
    if outcome.status == "done":
        return "it is an audit, which changes nothing" if outcome.stage == AUDIT else "it has no numbers"
    said = (outcome.record.error or "no reason was recorded").splitlines()[0]
    return f"{'refused' if outcome.status == NOT_APPLICABLE else outcome.status}: {said}"
