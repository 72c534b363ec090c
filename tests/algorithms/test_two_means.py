"""Two groups of points, found without random numbers."""

from __future__ import annotations

import numpy as np
import torch

from sidedoor.algorithms.features.two_means import principal, two_means


def points(count: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_two_blobs_of_unequal_size_are_told_apart() -> None:
    x = points(200, 5)
    x[:20, 1] += 10
    group = two_means(x)
    assert group[:20].all() != group[20:].all()
    assert group[:20].unique().numel() == group[20:].unique().numel() == 1


def test_points_are_nearest_to_the_mean_of_their_own_group() -> None:
    """In one blob too, where the start is not what it ends with."""
    x = points(300, 4)
    group = two_means(x)
    centres = torch.stack([x[~group].mean(0), x[group].mean(0)])
    assert torch.equal(torch.cdist(x, centres).argmin(1) == 1, group)
    assert not torch.equal(group, principal(x, 1)[:, 0] > 0)


def test_equal_points_are_one_group() -> None:
    assert not two_means(torch.ones(5, 3, dtype=torch.float64)).any()
    assert not two_means(torch.ones(1, 3, dtype=torch.float64)).any()


def test_principal_components_have_the_largest_variances() -> None:
    x = points(50, 6) * torch.tensor([5.0, 4, 3, 1, 1, 1])
    found = principal(x, 3)
    variances = np.linalg.eigvalsh(np.cov(x.T.numpy()))[::-1][:3]
    np.testing.assert_allclose(found.var(0).numpy(), variances)
    assert found.mean(0).abs().max() < 1e-12
    assert principal(x[:2], 3).shape == (2, 2)
