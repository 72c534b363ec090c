"""Repairs: the model is changed before it is used."""

from __future__ import annotations

from sidedoor.bench.case import Case, TrainedModel
from sidedoor.bench.examine.base import Outcome
from sidedoor.defenses.repair.base import Repair


def examine(defense: Repair, case: Case, trained: TrainedModel) -> Outcome:
    """The repaired model."""
    return Outcome(defense.repair(*case.given(defense, trained.model)))
