"""Training defences: the defender trains the model that is delivered."""

from __future__ import annotations

from sidedoor.backdoor.dataset import PoisonedDataset, seal
from sidedoor.bench.case import Case, TrainedModel
from sidedoor.bench.examine.base import Outcome
from sidedoor.defenses.training.base import AidedTraining, TrainingDefense


def examine(defense: TrainingDefense | AidedTraining, case: Case, trained: TrainedModel) -> Outcome:
    """The model that the defender trains on the poisoned data."""
    sealed, _ = seal(PoisonedDataset(case.train, trained.backdoor, case.task))
    if isinstance(defense, AidedTraining):
        clean = defense.needs.clean_for(case.clean)
        return Outcome(defense.train(sealed, clean, case.task, case.build, case.defender()))
    return Outcome(defense.train(sealed, case.task, case.build, case.defender()))
