"""The Mahalanobis filter: how far a row lies from the clean samples of its label."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from poisoned_digits import Suspect

from sidedoor.algorithms.features.collect import collect
from sidedoor.algorithms.inspection import inspection_model
from sidedoor.data.base import Subset
from sidedoor.defenses.filters.mahalanobis_filter import MahalanobisFilter
from sidedoor.errors import NotApplicable


def test_poisoned_digits_score_highest(suspect: Suspect) -> None:
    score = MahalanobisFilter().score(suspect.train, suspect.clean, suspect.task, suspect.build, suspect.run)
    assert suspect.auroc(score) > 0.98
    assert suspect.truth[score.argsort(descending=True)[:90]].mean() > 0.95


def test_the_distance_is_to_the_clean_mean_of_the_label_under_the_covariance_of_all_classes(suspect: Suspect) -> None:
    score = MahalanobisFilter().score(suspect.train, suspect.clean, suspect.task, suspect.build, suspect.run)
    model = inspection_model(suspect.train, suspect.task, suspect.build, suspect.run)
    rows, clean = (collect(model, data, suspect.run) for data in (suspect.train, suspect.clean))
    features, labels = clean.features.double().numpy(), clean.labels.numpy()
    means = np.stack([features[labels == k].mean(0) for k in range(10)])
    covariance = np.cov((features - means[labels]).T, bias=True)
    covariance += 1e-4 * covariance.trace() / len(covariance) * np.eye(len(covariance))
    offset = rows.features.double().numpy() - means[rows.labels.numpy()]
    expected = (offset * np.linalg.solve(covariance, offset.T).T).sum(1)
    np.testing.assert_allclose(score.numpy(), expected, rtol=2e-3)


def test_a_class_without_clean_samples_is_named(suspect: Suspect) -> None:
    some = Subset(suspect.clean, torch.nonzero(suspect.clean.targets != 4)[:, 0])
    with pytest.raises(NotApplicable, match="no clean sample of class 4"):
        MahalanobisFilter().score(suspect.train, some, suspect.task, suspect.build, suspect.run)
