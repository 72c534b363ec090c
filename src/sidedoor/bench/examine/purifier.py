"""Purifiers: inputs are changed before the model sees them."""

from __future__ import annotations

from dataclasses import replace

from sidedoor.bench.case import Case, TrainedModel
from sidedoor.bench.examine.base import Delivered
from sidedoor.defenses.purifiers.base import Purifier


def examine(defense: Purifier, case: Case, trained: TrainedModel, delivered: Delivered) -> Delivered:
    """The same model behind the fitted purifier."""
    fitted = defense.fit(*case.given(defense, delivered.finished))
    return replace(delivered, purifiers=(*delivered.purifiers, fitted))
