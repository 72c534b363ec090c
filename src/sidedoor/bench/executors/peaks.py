"""How much memory cells need, by what those like them took."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sidedoor.bench.executors.base import Cell
from sidedoor.bench.record import Record

ROOM = 1.3
"""What is asked for over the largest peak that was seen."""
_Kind = tuple[str, ...]


class Peaks:
    """The largest peaks of records, by attack, defences, data and network."""

    def __init__(self, records: Iterable[Record]):
        self.largest: dict[_Kind, float] = {}
        for record in records:
            if not record.scored:  # that of who wrote of a dead one says nothing
                continue
            kind = _kind(record.spec)
            self.largest[kind] = max(record.peak_mb, self.largest.get(kind, 0.0))

    def __call__(self, cell: Cell) -> float:
        """MiB to ask for; 0 if no cell like this was ever run."""
        return ROOM * self.largest.get(_kind(cell.spec.to_json()), 0.0)


def _kind(spec: dict[str, Any]) -> _Kind:
    given = spec.get("defense") or []
    defenses = given if isinstance(given, list | tuple) else [given]
    named = (spec.get("attack"), spec.get("data"), spec.get("model"), *defenses)
    return tuple(each["name"] if each else "none" for each in named)
