"""Training defences: the defender trains the model that is delivered."""

from __future__ import annotations

from dataclasses import replace

from sidedoor.bench.case import Case, TrainedModel
from sidedoor.bench.examine.base import Delivered, with_data
from sidedoor.defenses.training.base import AidedTraining, TrainingDefense


def examine(defense: TrainingDefense | AidedTraining, case: Case, trained: TrainedModel,
            delivered: Delivered) -> Delivered:
    """The model that the defender trains on what is left of the poisoned data."""
    sealed, _ = with_data(delivered, case, trained)
    if isinstance(defense, AidedTraining):
        clean = defense.needs.clean_for(case.clean)
        return replace(delivered, model=defense.train(sealed, clean, case.task, case.build, case.defender()))
    return replace(delivered, model=defense.train(sealed, case.task, case.build, case.defender()))
