"""SCAn: the class with two groups stands out, and of its groups the one that the clean samples are not in."""

from __future__ import annotations

import torch
from poisoned_digits import Suspect
from torch import Tensor

from sidedoor.algorithms.anomaly_index import anomaly_index
from sidedoor.defenses.filters.scan_filter import SCAn, noise_covariance, scores, split

LABELS = torch.arange(10).repeat_interleave(100)
CLEAN = torch.arange(10).repeat_interleave(20)
CUT = torch.e**2


def gaussians(seed: int, share: float = 0.0, sigma: float = 4.0) -> tuple[Tensor, Tensor]:
    """Rows and clean samples of ten classes in 16 dimensions; the first rows of class 3 may be a second group."""
    rng = torch.Generator().manual_seed(seed)
    means = 3 * torch.randn(10, 16, generator=rng, dtype=torch.float64)
    rows = means[LABELS] + torch.randn(1000, 16, generator=rng, dtype=torch.float64)
    clean = means[CLEAN] + torch.randn(200, 16, generator=rng, dtype=torch.float64)
    away = torch.randn(16, generator=rng, dtype=torch.float64)
    rows[300 : 300 + round(100 * share)] += sigma * away / away.norm()
    return rows, clean


def index_of(rows: Tensor, clean: Tensor) -> Tensor:
    parts = zip(rows.view(10, 100, 16), clean.view(10, 20, 16), strict=True)
    return anomaly_index(-torch.stack([split(*part).gain for part in parts]))


def test_a_class_of_two_groups_stands_out_and_no_other_does() -> None:
    for seed in range(5):
        index = index_of(*gaussians(seed, 0.3))
        assert index.argmax() == 3
        assert index[3] > CUT
    quiet = [index_of(*gaussians(seed)).max() < CUT for seed in range(10)]
    assert sum(quiet) >= 9


def test_the_rows_without_clean_ones_beside_them_are_suspected_even_where_they_are_more() -> None:
    for share in (0.1, 0.3, 0.7):
        rows, clean = gaussians(0, share, 6.0)
        found = scores(rows, LABELS, clean, CLEAN)
        poison = torch.zeros(1000, dtype=torch.bool)
        poison[300 : 300 + round(100 * share)] = True
        assert (found[poison] > 0).double().mean() > 0.9
        assert found[poison].median() > 3 * found[~poison].quantile(0.99)


def test_a_class_without_clean_samples_suspects_its_smaller_group() -> None:
    rows, _ = gaussians(0, 0.3, 8.0)
    found = split(rows[LABELS == 3], torch.empty(0, 16, dtype=torch.float64))
    assert (found.advantage[:30] > 0).all()
    assert (found.advantage[30:] < 0).all()


def test_few_or_equal_rows_are_not_suspected() -> None:
    rows, clean = gaussians(0)
    assert scores(rows[:9], LABELS[:9], clean, CLEAN).tolist() == [0.0] * 9
    assert scores(torch.ones(30, 16).double(), LABELS[:30], torch.ones(200, 16).double(), CLEAN).tolist() == [0.0] * 30


def test_expectation_maximisation_knows_that_means_of_few_samples_are_not_those_of_the_class() -> None:
    """The scatter around the means of two samples each is half of the variance."""
    rng = torch.Generator().manual_seed(0)
    truth = torch.tensor([[2.0, 0.6, 0], [0.6, 1, 0], [0, 0, 0.5]], dtype=torch.float64)
    labels = torch.arange(400).repeat_interleave(2)
    noise = torch.randn(800, 3, generator=rng, dtype=torch.float64) @ torch.linalg.cholesky(truth).T
    x = noise + 2 * torch.randn(400, 3, generator=rng, dtype=torch.float64)[labels]
    found = noise_covariance(x, labels, 100, 1e-5, 1e-9)
    torch.testing.assert_close(found, truth, rtol=0, atol=0.2)
    within = torch.stack([x[0::2], x[1::2]])
    assert within.var(0, unbiased=False).mean() < 0.6 * truth.diagonal().mean()  # the premise


def test_fewer_clean_samples_than_features_leave_a_noise_that_can_be_inverted() -> None:
    x = torch.randn(30, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = noise_covariance(x, torch.arange(30) % 10, 100, 1e-5, 1e-4)
    assert torch.linalg.eigvalsh(found).min() > 0


def test_poisoned_digits_score_highest(suspect: Suspect) -> None:
    score = SCAn().score(suspect.train, suspect.clean, suspect.task, suspect.build, suspect.run)
    assert suspect.auroc(score) > 0.95
    in_target = suspect.train.targets == 0
    poisoned = suspect.truth == 1
    assert score[poisoned].min() > score[in_target & ~poisoned].quantile(0.9)
