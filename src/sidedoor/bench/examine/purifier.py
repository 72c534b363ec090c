"""Purifiers: inputs are changed before the model sees them."""

from __future__ import annotations

from sidedoor.bench.case import Case, TrainedModel
from sidedoor.bench.examine.base import Outcome
from sidedoor.defenses.purifiers.base import Purifier


def examine(defense: Purifier, case: Case, trained: TrainedModel) -> Outcome:
    """The same model behind the fitted purifier."""
    return Outcome(trained.model, purify=defense.fit(*case.given(defense, trained.model)))
