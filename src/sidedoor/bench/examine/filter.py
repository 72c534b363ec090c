"""Filters: remove the most suspicious rows."""

from __future__ import annotations

import torch
from torch import Tensor

from sidedoor.bench.case import Case, TrainedModel
from sidedoor.bench.examine.base import Delivered, with_data
from sidedoor.data.base import Dataset, Subset
from sidedoor.defenses.filters.base import REMOVED, DataFilter, GuidedFilter
from sidedoor.evaluation import separation
from sidedoor.evidence import Separation


def examine(defense: DataFilter | GuidedFilter, case: Case, trained: TrainedModel, delivered: Delivered) -> Delivered:
    """What the filter leaves of the training data, and how well its scores tell poisoned rows from clean."""
    sealed, truth = with_data(delivered, case, trained)
    score = _scored(defense, sealed, case)
    keep = score.argsort()[: len(score) - round(REMOVED * case.spec.assumed_rate * len(score))].sort().values
    removed = torch.ones(len(score))
    removed[keep] = 0
    # No clean calibration scores exist for training rows: the operating points are those of the ROC curve itself.
    figures = separation(score[truth == 1], score[truth == 0], score[truth == 0])
    labels = range(len(sealed.classes)) if case.task.output == "labels" else ()
    for name, rows in (("removed_poisoned", truth == 1), ("removed_clean", truth == 0)):
        figures |= {name: _share(removed[rows]),
                    f"{name}_by_class": tuple(_share(removed[rows & (sealed.targets == label)]) for label in labels)}
    return delivered.found(Separation(**figures), {"filter_score": score.numpy(), "filter_truth": truth.numpy()},
                           model=None, train=Subset(sealed, keep), truth=truth[keep])


def _scored(defense: DataFilter | GuidedFilter, sealed: Dataset, case: Case) -> Tensor:
    if isinstance(defense, GuidedFilter):
        return defense.score(sealed, defense.needs.clean_for(case.clean), case.task, case.build, case.data_defender())
    return defense.score(sealed, case.task, case.build, case.data_defender())


def _share(values: Tensor) -> float | None:
    return values.mean().item() if len(values) else None
