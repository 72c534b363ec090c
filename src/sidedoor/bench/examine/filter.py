"""Filters: remove the most suspicious rows, and train again on the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from sidedoor.backdoor.dataset import PoisonedDataset, seal
from sidedoor.bench.case import Case, TrainedModel
from sidedoor.bench.examine.base import Outcome
from sidedoor.data.base import Dataset, Subset
from sidedoor.defenses.filters.base import REMOVED, DataFilter, GuidedFilter
from sidedoor.evaluation import separation
from sidedoor.evidence import Separation
from sidedoor.tasks.task import Supervised


def examine(defense: DataFilter | GuidedFilter, case: Case, trained: TrainedModel) -> Outcome:
    """The model that is trained on what the filter leaves, and how well its scores tell poisoned rows from clean."""
    poisoned = PoisonedDataset(case.train, trained.backdoor, case.task)
    sealed, order = seal(poisoned)
    score = _scored(defense, sealed, case)
    keep = score.argsort()[: len(score) - round(REMOVED * case.spec.assumed_rate * len(score))].sort().values
    model = case.run.fit(case.run.build(case.build), Subset(sealed, keep), Supervised(case.task), name="retrain")
    truth = poisoned.is_poisoned()[order]
    removed = torch.ones(len(score))
    removed[keep] = 0
    # No clean calibration scores exist for training rows: the operating points are those of the ROC curve itself.
    figures = separation(score[truth == 1], score[truth == 0], score[truth == 0])
    labels = range(len(sealed.classes)) if case.task.output == "labels" else ()
    for name, rows in (("removed_poisoned", truth == 1), ("removed_clean", truth == 0)):
        figures |= {name: _share(removed[rows]),
                    f"{name}_by_class": tuple(_share(removed[rows & (sealed.targets == label)]) for label in labels)}
    found = Separation(**figures)
    return Outcome(model, evidence=(found,), arrays={"filter_score": score.numpy(), "filter_truth": truth.numpy()})


def _scored(defense: DataFilter | GuidedFilter, sealed: Dataset, case: Case) -> Tensor:
    if isinstance(defense, GuidedFilter):
        return defense.score(sealed, defense.needs.clean_for(case.clean), case.task, case.build, case.defender())
    return defense.score(sealed, case.task, case.build, case.defender())


def _share(values: Tensor) -> float | None:
    return values.mean().item() if len(values) else None
