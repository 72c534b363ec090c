"""Activation clustering: the smaller of two clusters, and how far they lie apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from poisoned_digits import Suspect
from sklearn.metrics import silhouette_score

from sidedoor.defenses.filters.activation_clustering import ActivationClustering, clustered, silhouette


def blob(rows: int, size: int = 2) -> torch.Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_of_two_blobs_the_smaller_one_is_found_and_nothing_else(share: float) -> None:
    x = blob(200)
    x[: round(200 * share), 0] += 12
    score = clustered(x, 10)
    assert score[: round(200 * share)].min() > 0.3
    assert score[round(200 * share) :].max() < 0.01


def test_one_blob_is_less_suspicious_than_two() -> None:
    one, two = blob(300), blob(300)
    two[:90, 0] += 6
    assert clustered(two, 10).max() > clustered(one, 10).max() + 0.08


def test_rotated_or_scaled_features_score_alike() -> None:
    """So that independent components, which are rotated principal ones of unit variance, would say the same."""
    x = blob(100, 3)
    x[:30, 1] += 5
    mix = blob(3, 3)
    torch.testing.assert_close(clustered(x @ mix, 10), clustered(x, 10))


def test_the_silhouette_is_that_of_scikit_learn() -> None:
    x = blob(500, 4)
    group = x[:, 0] > 0.8
    assert silhouette(x, group) == pytest.approx(silhouette_score(x.numpy(), group.numpy()))
    alone = torch.arange(20) == 3
    assert silhouette(x[:20], alone) == pytest.approx(silhouette_score(x[:20].numpy(), alone.numpy()))
    many, half = blob(1500, 4), blob(1500, 4)[:, 0] > 0.8
    assert silhouette(many, half) == pytest.approx(silhouette_score(many[::2].numpy(), half[::2].numpy()))


def test_equal_rows_are_not_suspected() -> None:
    assert clustered(torch.ones(20, 3, dtype=torch.float64), 10).tolist() == [0.0] * 20


def test_poisoned_digits_are_a_cluster_of_their_class(suspect: Suspect) -> None:
    score = ActivationClustering().score(suspect.train, suspect.task, suspect.build, suspect.run)
    target = suspect.train.targets == 0
    found = score > 0.05
    assert found[target & (suspect.truth == 1)].double().mean() > 0.6
    assert found[target & (suspect.truth == 0)].double().mean() < 0.1
    assert suspect.auroc(score) > 0.8
    assert np.isfinite(score.numpy()).all()
