"""Repairs: the model is changed before it is used."""

from __future__ import annotations

from dataclasses import replace

from sidedoor.bench.case import Case, TrainedModel
from sidedoor.bench.examine.base import Delivered
from sidedoor.defenses.repair.base import Repair


def examine(defense: Repair, case: Case, trained: TrainedModel, delivered: Delivered) -> Delivered:
    """The repaired model."""
    return replace(delivered, model=defense.repair(*case.given(defense, delivered.finished)))
