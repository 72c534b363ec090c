"""The same image under several labels."""

from __future__ import annotations

import pytest
import torch

from sidedoor.data.base import ArrayDataset
from sidedoor.vetting.filter import duplicates
from sidedoor.vetting.filter.duplicates import DISTANCE, conflicts, hashed


def data(images: torch.Tensor, labels: list[int]) -> ArrayDataset:
    return ArrayDataset(images, labels, 3)


@pytest.fixture
def images() -> torch.Tensor:
    """Six images that are unlike each other."""
    return torch.randint(0, 256, (6, 1, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_equal_images_count_where_their_labels_differ(images: torch.Tensor) -> None:
    assert conflicts(data(images, [0, 1, 2, 0, 1, 2])).pairs == ()
    images[3], images[4], images[5] = images[0], images[0], images[1]
    found = conflicts(data(images, [0, 1, 2, 0, 1, 1]))  # row 3 has the label of row 0, row 5 that of row 1
    assert found.exact == ((0, 4),)
    assert found.near == ((3, 4),)
    assert not found.more


def test_nearly_equal_images_count_and_alike_hashes_do_not_suffice(images: torch.Tensor) -> None:
    images[1] = (images[0].int() + torch.randint(-3, 4, (1, 16, 16))).clamp(0, 255)
    images[2] = images[0] // 2  # of half the contrast: the same hash, other pixels
    codes = hashed(images.float())
    assert (codes[0] @ codes[2]).item() >= 64 - 2 * DISTANCE
    found = conflicts(data(images, [0, 1, 2, 0, 1, 2]))
    assert (found.exact, found.near) == ((), ((0, 1),))


def test_a_hash_has_as_many_bits_of_each_kind() -> None:
    codes = hashed(torch.rand(5, 3, 20, 24, generator=torch.Generator().manual_seed(1)))
    assert codes.shape == (5, 64)
    assert codes.sum(1).abs().max() <= 2


def test_what_is_listed_and_compared_has_a_bound(images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    same = data(images[:1].repeat(6, 1, 1, 1), [0, 1, 2, 0, 1, 2])
    monkeypatch.setattr(duplicates, "MOST", 2)
    monkeypatch.setattr(duplicates, "AT_ONCE", 6)  # a row at a time
    found = conflicts(same)
    assert (len(found.exact), found.more) == (2, True)
    monkeypatch.setattr(duplicates, "COMPARED", 5)
    assert not conflicts(same).compared
