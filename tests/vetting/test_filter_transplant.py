"""What groups of rows have in common, put into other images; and which groups are tried."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sidedoor.data.base import ArrayDataset
from sidedoor.engine import Run
from sidedoor.vetting.filter.suspicion import explaining, groups, place, sized
from sidedoor.vetting.filter.transplant import answers, flips, hosts, stamps

RUN = Run.local(device="cpu")


def images(count: int, seed: int) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def patched() -> Tensor:
    x = images(30, 0)
    x[:, :, -2:, -2:] = 0.75
    x[:6] = images(6, 9)  # a fifth of the group is not poisoned
    return x


def test_a_patch_is_recovered_where_it_is_and_nowhere_else(patched: Tensor) -> None:
    found = stamps(patched, images(60, 1), images(80, 2))
    stamped = found["replace"](images(5, 3))
    assert found["replace"].pixels == 4
    assert torch.equal(stamped[:, :, -2:, -2:], torch.full((5, 1, 2, 2), 0.75))
    assert torch.equal(stamped[:, :, :-2], images(5, 3)[:, :, :-2])
    changed = found["add"].shift[0, -2:, -2:]
    assert changed.abs().max() > 0.1
    assert found["add"].pixels < 10


def test_rows_that_have_nothing_in_common_leave_nothing_to_replace() -> None:
    found = stamps(images(40, 4), images(60, 1), images(80, 2))
    assert "replace" not in found


def test_a_blend_is_recovered_and_undone() -> None:
    pattern, x, others = images(1, 7)[0], images(400, 5), images(400, 6)
    stamp = stamps(0.7 * x + 0.3 * pattern, images(60, 1), others)["blend"]
    fresh = images(20, 8)
    assert (stamp(fresh) - (0.7 * fresh + 0.3 * pattern)).abs().mean() < 0.03
    assert (stamp.undone(0.7 * fresh + 0.3 * pattern) - fresh).abs().mean() < 0.04


class Corner(nn.Module):
    """Class 1 where the last pixel is bright."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([0.9 - x[:, 0, -1, -1], x[:, 0, -1, -1]], 1)


def test_flips_are_counted_of_the_rows_that_are_given(patched: Tensor) -> None:
    x = (images(20, 3) * 100).to(torch.uint8)
    data = ArrayDataset(x, [0] * 20, 2)
    stamp = stamps(patched, images(60, 1), images(80, 2))["replace"]
    assert answers(Corner(), data.fetch(torch.arange(20)).x, RUN).tolist() == [0] * 20
    assert flips(Corner(), data, torch.tensor([1, 4, 7]), stamp, 1, RUN) == 3
    assert flips(Corner(), data, torch.tensor([1, 4, 7]), stamp, 0, RUN) == 0


def test_images_that_judge_had_no_part_in_the_choice() -> None:
    labels = torch.arange(300) % 3
    taken = torch.where(torch.arange(300) < 30, 1, labels)
    found = hosts(labels, taken, 1, RUN)
    judging, rest = set(found.judging.tolist()), set(found.choosing.tolist()) | set(found.others.tolist())
    assert judging
    assert rest
    assert not judging & rest
    assert all(labels[row] != 1 and row >= 30 for row in judging | rest)


def test_places_are_shares_of_lower_scores() -> None:
    assert place(torch.tensor([3.0, 1.0, 2.0, 2.0, 9.0])).tolist() == [0.75, 0.0, 0.375, 0.375, 1.0]
    assert place(torch.zeros(1)).tolist() == [0.0]


def test_a_few_rows_of_a_cluster_become_the_whole_cluster() -> None:
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(100, 6, generator=rng)
    features[:30, 0] += 8
    scores = torch.rand(100, generator=rng)
    scores[:6] += 1  # all that the filter sees
    found = groups(features, {"spectre": scores})
    assert all(sized(group) for group in found)
    assert len({tuple(group.tolist()) for group in found}) == len(found)
    cluster = torch.arange(100) < 30
    assert any(torch.equal(group, cluster) for group in found)
    assert torch.equal(explaining([cluster, ~cluster, torch.arange(100) < 15], cluster.float()), cluster)


def test_groups_are_neither_a_few_rows_nor_most_of_a_class() -> None:
    assert [sized(torch.arange(50) < count) for count in (4, 5, 30, 31)] == [False, True, True, False]
