"""SPECTRE: outliers along a direction that is not the main one of their class."""

from __future__ import annotations

import pytest
import torch
from poisoned_digits import Suspect
from torch import Tensor

from sidedoor.defenses.filters.spectral_signatures import signature
from sidedoor.defenses.filters.spectre import SPECTRE, concentrated, que
from sidedoor.errors import ConfigError
from sidedoor.metrics.statistics import auroc


def planted(seed: int, share: float = 0.02) -> tuple[Tensor, Tensor]:
    """A class of 1000 rows of eight features, the first one large, and few rows far out along the fifth."""
    x = torch.randn(1000, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[:, 0] *= 20
    outlier = torch.arange(1000) < round(1000 * share)
    x[outlier, 4] += 5
    return x, outlier


def separation(score: Tensor, outlier: Tensor) -> float:
    found = auroc(score[outlier].numpy(), score[~outlier].numpy())
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_weak_direction_of_outliers_is_found_where_the_main_one_says_nothing(seed: int) -> None:
    x, outlier = planted(seed)
    assert separation(SPECTRE(directions=(8,)).within(x), outlier) > 0.95
    assert separation(signature(x), outlier) < 0.8  # the premise


def test_the_covariance_is_that_of_the_rows_without_outliers() -> None:
    x, outlier = planted(0, 0.2)
    x[outlier, 4] += 10
    _, covariance = concentrated(x, 0.25)
    variance = covariance.diagonal()
    torch.testing.assert_close(variance[1:], torch.ones(7, dtype=torch.float64), rtol=0.4, atol=0)
    assert x.var(0)[4] > 20  # the premise


def test_scores_without_weight_on_any_direction_are_mean_squares_and_with_much_those_of_the_largest() -> None:
    x, _ = planted(0)
    mean, one = torch.zeros(8, dtype=torch.float64), torch.eye(8, dtype=torch.float64)
    torch.testing.assert_close(que(x, mean, one, 1e-9), x.square().mean(1))
    first = torch.linalg.eigh(x.T @ x).eigenvectors[:, -1]
    torch.testing.assert_close(que(x, mean, one, 1e4), (x @ first).square())


def test_as_many_directions_as_leave_outliers_farthest_out_are_chosen() -> None:
    """In two of them there is nothing to see."""
    x, outlier = planted(0)
    x[:, 1] *= 10
    assert separation(SPECTRE(directions=(2,)).within(x), outlier) < 0.7
    assert separation(SPECTRE(directions=(2, 8)).within(x), outlier) > 0.95


def test_rows_that_vary_less_than_expected_and_few_or_equal_rows_give_finite_scores() -> None:
    x, _ = planted(0)
    mean = torch.zeros(8, dtype=torch.float64)
    assert que(x, mean, 1e4 * torch.eye(8, dtype=torch.float64), 4.0).isfinite().all()
    for few in (x[:1], x[:3], torch.ones(30, 8, dtype=torch.float64)):
        assert SPECTRE().within(few).tolist() == [0.0] * len(few)
    assert SPECTRE().within(x[:9]).isfinite().all()


def test_poisoned_digits_score_higher_though_they_are_half_of_their_class(suspect: Suspect) -> None:
    score = SPECTRE().score(suspect.train, suspect.task, suspect.build, suspect.run)
    target = suspect.train.targets == 0
    assert suspect.auroc(score) > 0.6
    assert separation(score[target], suspect.truth[target] == 1) > 0.7


def test_what_cannot_be_estimated_is_refused() -> None:
    with pytest.raises(ConfigError, match="a trim below 1"):
        SPECTRE(trim=1.0)
    with pytest.raises(ConfigError, match="at least one number of directions"):
        SPECTRE(directions=())
