"""Means and shared covariance of classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from sidedoor.algorithms.features.class_statistics import class_statistics
from sidedoor.errors import NotApplicable


def test_distances_are_those_of_the_pooled_covariance() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    mixing, centres = np.eye(4) + 0.3 * rng.normal(size=(4, 4)), 5 * rng.normal(size=(3, 4))
    features = rng.normal(size=(300, 4)) @ mixing + centres[labels]
    statistics = class_statistics(torch.tensor(features), torch.tensor(labels), 3)
    oracle = LinearDiscriminantAnalysis(solver="lsqr", store_covariance=True).fit(features, labels)
    inverse = np.linalg.inv(oracle.covariance_)
    expected = [[mahalanobis(row, mean, inverse) ** 2 for mean in oracle.means_] for row in features[:20]]
    found = statistics.distances(torch.tensor(features[:20]))
    assert np.allclose(found, expected, rtol=0.01)  # the ridge
    assert torch.equal(found.argmin(1), torch.tensor(labels[:20]))


def test_fewer_samples_than_features_have_finite_distances() -> None:
    features = torch.randn(6, 50, generator=torch.Generator().manual_seed(1))
    found = class_statistics(features, torch.tensor([0, 0, 0, 1, 1, 1]), 2).distances(features)
    assert found.isfinite().all()
    assert torch.equal(found.argmin(1), torch.tensor([0, 0, 0, 1, 1, 1]))


def test_a_class_without_samples_is_named() -> None:
    with pytest.raises(NotApplicable, match="class 1;"):
        class_statistics(torch.randn(3, 2), torch.tensor([0, 0, 2]), 3)
