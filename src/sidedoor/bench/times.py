"""How long cells and trainings take, by the records of a store: medians over those that are most alike."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from sidedoor.bench.record import Record, half_of

_SEEDS = ("seed", "defender_seed")
LEVELS = ("the same methods", "the same methods with other parameters", "other attacks")
"""What a time may be known from, the best first."""
Table = dict[str, Any]


@dataclass(frozen=True)
class Time:
    """Seconds that something takes.

    Args:
        level: of `LEVELS`.
    """

    seconds: float
    level: int


@dataclass
class Times:
    """Seconds by what they are of, for each level the values of all records.

    Args:
        records: those that count.
    """

    records: int = 0
    cells: dict[str, list[float]] = field(default_factory=dict)
    trainings: dict[str, dict[str, float]] = field(default_factory=dict)

    @staticmethod
    def of(records: Iterable[Record], device: str) -> Times:
        """From records of one kind of device, such as "cpu"."""
        found = Times()
        for record in records:
            if record.scored and record.device.partition(":")[0] == device:
                found._add(record)
        return found

    def _add(self, record: Record) -> None:
        self.records += 1
        for name in _cell_names(record.spec):
            self.cells.setdefault(name, []).append(own_seconds(record))
        attacked = record.spec.get("attack") is not None
        trained = [(record.spec, record.planted, "attack")]
        if attacked and record.clean_key:
            trained.append((record.spec | {"attack": None, "surrogate": None}, record.clean_key, "clean"))
        for spec, key, part in trained:
            for name in _training_names(spec) if record.timing.get(part) else ():
                self.trainings.setdefault(name, {})[key] = record.timing[part]  # of a model once

    def cell(self, spec: Table) -> Time | None:
        """Of a cell whose models are there; None if no record is like it."""
        return _best([self.cells.get(name, ()) for name in _cell_names(spec)])

    def training(self, spec: Table) -> Time | None:
        """Of the model of a specification; None if no record is like it."""
        return _best([tuple(self.trainings.get(name, {}).values()) for name in _training_names(spec)])


def own_seconds(record: Record) -> float:
    """Seconds of a run without the models that it trained, which it does not say: what it spent beside its defence is
    taken for trainings as far as these fit in.
    """
    defense = record.timing.get("defense", 0.0)
    rest = max(record.seconds - defense, 0.0)
    trained = [record.timing.get("attack", 0.0), record.timing.get("clean", 0.0) if record.spec.get("attack") else 0.0]
    fitting = [part for part in (sum(trained), *sorted(trained, reverse=True)) if part <= rest]
    return defense + rest - max(fitting, default=0.0)


def _best(levels: Sequence[Sequence[float]]) -> Time | None:
    return next((Time(median(values), level) for level, values in enumerate(levels) if values), None)


def _cell_names(spec: Table) -> list[str]:
    """What a cell's time is known by, the narrowest first."""
    where = _where(spec)
    defense = _names(spec.get("defense"))
    return [_text({name: value for name, value in spec.items() if name not in _SEEDS}),
            _text([_names(spec.get("attack")), defense, where]),
            _text([spec.get("attack") is not None, defense, where])]


def _training_names(spec: Table) -> list[str]:
    """What a training's time is known by; that of another attack says nothing."""
    return [_text(half_of(spec, *_SEEDS)), _text([_names(spec.get("attack")), _where(spec)])]


def _where(spec: Table) -> list[Any]:
    """Data and model."""
    return [spec.get(name) for name in ("data", "train_samples", "test_samples", "model", "task")]


def _names(given: Any) -> list[str]:
    """Of one method, several or none."""
    several = given if isinstance(given, list) else [given] if given else []
    return [str(each["name"]) for each in several]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
