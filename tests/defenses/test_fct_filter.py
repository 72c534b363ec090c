"""FCT: features of poisoned rows change most under transformations."""

from __future__ import annotations

from poisoned_digits import Suspect

from sidedoor.defenses.filters.fct_filter import FCTFilter


def test_features_of_poisoned_rows_change_most(suspect: Suspect) -> None:
    score = FCTFilter(epochs=8, draws=2).score(suspect.train, suspect.task, suspect.build, suspect.run)
    assert suspect.auroc(score) > 0.9
