from __future__ import annotations

import pytest
import torch

from sidedoor.algorithms.features.gram import GramStatistics, gram_statistics, gram_vectors
from sidedoor.errors import NotApplicable

ORDERS = (1, 2, 8)


def maps(count: int, seed: int = 0) -> torch.Tensor:
    """Of three channels, all of about 1."""
    return 1 + 0.1 * torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_the_entries_are_roots_of_products_of_powers() -> None:
    x = torch.tensor([[[[1.0, 2.0]], [[3.0, -1.0]]]])
    first, second = gram_vectors(x, (1, 2))[0].tolist()
    assert first == pytest.approx([1 + 4, 3 - 2, 9 + 1])
    assert second == pytest.approx([(1 + 16) ** 0.5, (9 + 4) ** 0.5, (81 + 1) ** 0.5])


def test_where_in_the_maps_something_is_does_not_matter() -> None:
    x = maps(5)
    moved = x.flatten(2)[:, :, torch.randperm(16, generator=torch.Generator().manual_seed(1))].view_as(x)
    torch.testing.assert_close(gram_vectors(moved, ORDERS), gram_vectors(x, ORDERS), rtol=1e-4, atol=1e-5)


def test_channels_that_rise_together_are_found_and_clean_ones_are_not() -> None:
    clean, fresh = maps(40), maps(40, seed=1)
    labels = torch.zeros(40, dtype=torch.int64)
    statistics = gram_statistics(gram_vectors(clean, ORDERS), labels, 1)
    assert statistics.deviations(gram_vectors(fresh, ORDERS), labels, 10).max() == 0
    fresh[:, 0, 0, 0] *= 4
    fresh[:, 1, 0, 0] *= 4
    assert statistics.deviations(gram_vectors(fresh, ORDERS), labels, 10).min() > 0.05


def test_deviations_are_relative_to_the_bound_that_is_left() -> None:
    statistics = GramStatistics(torch.tensor([[[2.0, 4.0]]]), torch.tensor([[[0.1, 0.2]]]))
    labels = torch.zeros(3, dtype=torch.int64)
    vectors = torch.tensor([[[6.0, 4.0]], [[2.0, 1.0]], [[2.9, 3.1]]])
    found = statistics.deviations(vectors, labels, 10)
    torch.testing.assert_close(found, torch.tensor([(6 - 3) / 3 / 2, (2 - 1) / 2 / 2, 0.0]))


def test_a_dead_channel_does_not_decide() -> None:
    statistics = GramStatistics(torch.tensor([[[0.0, 1.0]]]), torch.zeros(1, 1, 2))
    assert statistics.deviations(torch.tensor([[[1e-4, 1.0]]]), torch.tensor([0]), 10).item() == pytest.approx(0.1)


def test_each_class_has_its_own() -> None:
    vectors = torch.tensor([0.0, 1, 2, 10, 14]).view(5, 1, 1)
    median, spread = gram_statistics(vectors, torch.tensor([0, 0, 0, 1, 1]), 2)
    assert median.flatten().tolist() == [1, 10]
    assert spread.flatten().tolist() == [1, 0]
    with pytest.raises(NotApplicable, match="class 2"):
        gram_statistics(vectors, torch.tensor([0, 0, 0, 1, 1]), 3)
