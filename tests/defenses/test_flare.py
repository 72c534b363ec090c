"""FLARE: rows with an activation that is unlikely in some layer are a cluster of their own."""

from __future__ import annotations

import pytest
import torch
from poisoned_digits import Suspect
from torch import Tensor, nn

from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.filters.flare import FLARE, apart, least_likely
from sidedoor.engine import Recipe, Run
from sidedoor.errors import NotApplicable
from sidedoor.tasks.classification import Classification


def descriptions(far: int) -> Tensor:
    """Four layers; the first rows have an extreme value in the third."""
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) - 5
    x[:far, 2] -= 40
    return x


def test_rows_with_one_extreme_layer_are_the_small_cluster() -> None:
    score = apart(descriptions(60), 20, 5)
    assert score[:60].min() > 0.99
    assert score[60:].median() < 0.6
    assert score[60:].quantile(0.9) < score[:60].min()


def test_fewer_rows_than_a_cluster_still_score_highest() -> None:
    score = apart(descriptions(5), 20, 5)
    assert score[:5].min() > score[5:].max()


def test_equal_rows_are_not_told_apart() -> None:
    assert apart(torch.ones(60, 3), 20, 5).unique().numel() == 1


def test_the_density_is_that_of_the_layers_running_statistics() -> None:
    norm = nn.BatchNorm2d(2).eval()
    norm.running_mean.copy_(torch.tensor([0.2, 0.5]))
    norm.running_var.copy_(torch.tensor([0.04, 0.25]))
    images = torch.randint(0, 256, (7, 2, 3, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ArrayDataset(images, [0] * 7, 2)
    found = least_likely(norm, data, Run.local(device="cpu"))
    x = data.fetch(torch.arange(7)).x
    normal = torch.distributions.Normal(norm.running_mean[:, None, None],
                                        (norm.running_var + norm.eps).sqrt()[:, None, None])
    torch.testing.assert_close(found[:, 0], normal.log_prob(x).flatten(1).min(1).values)


def test_poisoned_digits_are_a_cluster(suspect: Suspect) -> None:
    score = FLARE().score(suspect.train, suspect.task, suspect.build, suspect.run)
    assert suspect.auroc(score) > 0.95


def test_a_network_without_batch_normalisation_is_refused() -> None:
    data = ArrayDataset(torch.zeros(20, 1, 4, 4, dtype=torch.uint8), [0, 1] * 10, 2)
    run = Run.local(Recipe(epochs=1), device="cpu")
    with pytest.raises(NotApplicable, match="no batch normalisation"):
        FLARE().score(data, Classification(2), lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), run)
