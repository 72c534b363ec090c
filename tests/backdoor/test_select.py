"""Rows are chosen among the eligible, as many as the rate says, each for a door that fits it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidedoor.backdoor import select
from sidedoor.backdoor.base import Poison
from sidedoor.data.base import ArrayDataset
from sidedoor.errors import ConfigError
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door
from sidedoor.goals.multi_target import MultiTarget
from sidedoor.tasks.classification import Classification
from sidedoor.triggers.patch import Patch, checkerboard

TASK = Classification(4)
PATCH = Patch(checkerboard(1))


def labelled(targets: list[int]) -> ArrayDataset:
    return ArrayDataset(torch.zeros(len(targets), 1, 2, 2, dtype=torch.uint8), targets, 4)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def doors(*labels: int) -> tuple[Door, ...]:
    return tuple(Door(PATCH, AllToOne(label)) for label in labels)


TARGETS = st.lists(st.integers(0, 3), min_size=1, max_size=60).filter(lambda y: any(y))


@settings(deadline=None)
@given(targets=TARGETS, rate=st.floats(0.001, 1), seed=st.integers(0, 9))
def test_the_share_is_of_the_eligible_samples(targets: list[int], rate: float, seed: int) -> None:
    train = labelled(targets)
    poison = select.random(train, TASK, doors(0), rate, rng(seed))
    eligible = sum(label != 0 for label in targets)
    assert len(poison.index) == max(1, round(rate * eligible))
    assert (poison.index.diff() > 0).all()
    assert (train.targets[poison.index] != 0).all()
    assert not poison.cover.any()
    assert poison.rate == rate
    assert poison.targets is None


def test_every_eligible_sample_can_be_chosen_and_the_seed_decides() -> None:
    train = labelled([0, 1, 2, 3] * 10)
    chosen = [tuple(select.random(train, TASK, doors(0), 0.1, rng(seed)).index.tolist()) for seed in range(100)]
    assert set().union(*chosen) == {i for i in range(40) if i % 4}
    assert chosen[5] == tuple(select.random(train, TASK, doors(0), 0.1, rng(5)).index.tolist())
    assert len(set(chosen)) > 90


@settings(deadline=None)
@given(targets=TARGETS, seed=st.integers(0, 9))
def test_each_row_gets_a_door_that_it_is_eligible_for(targets: list[int], seed: int) -> None:
    train = labelled(targets)
    goal = MultiTarget((0, 1, 2))
    poison = select.random(train, TASK, tuple(Door(PATCH, part) for part in goal.parts()), 1.0, rng(seed))
    assert poison.index.tolist() == list(range(len(targets)))  # every label has a door that leads elsewhere
    assert (poison.door != train.targets[poison.index]).all()  # door k leads to class k


def test_the_doors_of_several_targets_are_used_about_equally() -> None:
    poison = select.random(labelled([3] * 3000), TASK, doors(0, 1, 2), 1.0, rng())
    assert torch.bincount(poison.door, minlength=3).sub(1000).abs().max() < 130  # five standard deviations


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, float("nan")])
def test_a_rate_that_selects_nothing_or_too_much_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match=r"a rate of .* of 2 eligible samples selects none"):
        select.random(labelled([0, 1, 2]), TASK, doors(0), rate, rng())


def test_no_eligible_sample_is_refused() -> None:
    with pytest.raises(ConfigError, match="of 0 eligible samples"):
        select.random(labelled([0, 0]), TASK, doors(0), 0.5, rng())


def test_clean_label_rows_come_from_the_doors_own_class_and_keep_their_labels() -> None:
    train = labelled([0, 1, 2, 3] * 10)
    poison = select.of_class(train, doors(2, 1), (2, 1), 0.3, rng())
    assert len(poison.index) == 6
    assert (poison.index.diff() > 0).all()
    assert poison.targets is not None
    assert torch.equal(poison.targets, train.targets[poison.index])
    assert torch.equal(poison.targets, torch.tensor([2, 1])[poison.door])
    assert torch.bincount(poison.door).tolist() == [3, 3]


@pytest.mark.parametrize("label", [-1, 4])
def test_a_class_that_does_not_exist_is_refused(label: int) -> None:
    with pytest.raises(ConfigError, match=f"class {label} given; the data set has classes 0 to 3"):
        select.of_class(labelled([0, 1]), doors(0), (label,), 0.5, rng())


def test_cover_rows_are_further_rows_among_the_candidates() -> None:
    train = labelled([0, 1, 2, 3] * 10)
    poison = select.random(train, TASK, doors(0), 0.2, rng())
    covered = select.with_cover(poison, train, train.targets == 1, 0.5, rng(1))
    old = dict(zip(poison.index.tolist(), poison.door.tolist(), strict=True))
    new = dict(zip(covered.index.tolist(), covered.door.tolist(), strict=True))
    extra = covered.index[covered.cover]
    assert (covered.index.diff() > 0).all()
    assert covered.index[~covered.cover].tolist() == poison.index.tolist()
    assert {i: new[i] for i in old} == old
    assert (train.targets[extra] == 1).all()
    free = sum(i not in old for i in range(1, 40, 4))
    assert len(extra) == round(0.5 * free)
    assert covered.rate == poison.rate


def test_cover_rows_use_all_doors() -> None:
    train = labelled([3] * 40)
    poison = select.random(train, TASK, doors(0, 1), 0.2, rng())
    covered = select.with_cover(poison, train, torch.ones(40, dtype=torch.bool), 0.5, rng(1))
    assert set(covered.door[covered.cover].tolist()) == {0, 1}


def test_cover_for_poison_with_given_labels_keeps_them() -> None:
    train = labelled([0, 1, 2, 3] * 10)
    poison = select.of_class(train, doors(2), (2,), 0.3, rng())
    covered = select.with_cover(poison, train, train.targets == 1, 0.5, rng(1))
    assert covered.targets is not None
    assert torch.equal(covered.targets, train.targets[covered.index])


def test_cover_for_no_poison_at_all_is_refused() -> None:
    with pytest.raises(ConfigError):
        select.with_cover(Poison.none(), labelled([0, 1]), torch.ones(2, dtype=torch.bool), 0.5, rng())


def test_members_are_the_rows_of_a_class_and_a_class_without_any_is_named() -> None:
    train = labelled([2, 0, 2, 1, 2])
    assert select.members(train, 2).tolist() == [0, 2, 4]
    with pytest.raises(ConfigError, match="class 3 given, of which the training data have no sample"):
        select.members(train, 3)
    with pytest.raises(ConfigError, match="has classes 0 to 3"):
        select.members(train, 4)
