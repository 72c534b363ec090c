"""The words for the four numbers of the records that a table shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sidedoor.bench.record import Record
from sidedoor.core.terms import ANY, Terms

OLD = {
    "classification": Terms("C-Acc", "ASR", "R-Acc", "Idle", True),
    "restoration": Terms("Normal", "Effect", "Recovered", "Idle", False),
    "reconstruction": Terms("Similarity", "Effect", "Recovered", "Idle", False),
    "restored_classification": Terms("Accuracy", "Fooled", "Recovered", "Without trigger", True),
    "restored_detection": Terms("F1", "Fabricated", "Recovered", "Without trigger", True),
}
"""Terms of the tasks whose records of schema 1 do not have them."""


def terms_of(records: Sequence[Record]) -> Terms:
    """The terms that all records share, else terms that fit any."""
    found = [record.terms or OLD.get(_task(record), ANY) for record in records]
    if len({replace(terms, note="") for terms in found}) != 1:
        return ANY
    return max(found, key=lambda terms: len(terms.note))


def _task(record: Record) -> str:
    return str((record.spec.get("task") or {"name": "classification"})["name"])
