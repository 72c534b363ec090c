"""Splits: exactly the rows of lowest score, and a loss that is the published sum of two cross-entropies."""

from __future__ import annotations

import pytest
import torch

from sidedoor.algorithms.splits import lowest, lowest_per_class, row_of, symmetric_cross_entropy
from sidedoor.data.base import Subset
from sidedoor.testing.ground import ground

SCORES = torch.tensor([5.0, 1.0, 3.0, 1.0, 4.0, 0.5])
LABELS = torch.tensor([2, 2, 0, 2, 0, 0])


@pytest.mark.parametrize(("share", "rows"), [(0.0, []), (1 / 6, [5]), (1 / 3, [1, 5]), (0.5, [1, 3, 5]),
                                             (1.0, [0, 1, 2, 3, 4, 5])])
def test_the_lowest_share_is_flagged_and_of_equal_scores_the_first(share: float, rows: list[int]) -> None:
    assert lowest(SCORES, share).nonzero()[:, 0].tolist() == rows


@pytest.mark.parametrize(("count", "rows"), [(0, []), (1, [1, 5]), (2, [1, 2, 3, 5]), (9, [0, 1, 2, 3, 4, 5])])
def test_each_class_has_its_own_lowest(count: int, rows: list[int]) -> None:
    assert (LABELS == 1).sum() == 0  # the premise: a class without a row does no harm
    assert lowest_per_class(SCORES, LABELS, count).nonzero()[:, 0].tolist() == rows


def test_the_symmetric_cross_entropy_is_the_sum_of_both() -> None:
    logits, y = torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 0.0]]), torch.tensor([0, 2])
    p, label = logits.softmax(1), torch.eye(3)[y]
    forward, reverse = -(label * p.log()).sum(1), -(p * label.clamp(min=1e-4).log()).sum(1)
    torch.testing.assert_close(symmetric_cross_entropy(logits, y), 0.1 * forward + reverse)


def test_rows_are_found_by_the_index_of_their_batch() -> None:
    whole = ground(1).test
    part = Subset(whole, torch.tensor([9, 2, 5]))
    index = part.fetch(torch.tensor([2, 0, 1])).index
    assert index.tolist() == [5, 9, 2]  # the premise
    assert row_of(part)[index].tolist() == [2, 0, 1]
    assert torch.equal(row_of(whole), torch.arange(len(whole)))
