"""Poisoned data: only the poisoned rows differ, the evaluator knows them, and the defender's view does not tell."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sidedoor.backdoor import dataset
from sidedoor.backdoor.base import Backdoor, Poison
from sidedoor.backdoor.dataset import PoisonedDataset, Sealed, seal
from sidedoor.core import random
from sidedoor.data.base import ArrayDataset, Dataset, Subset, stored, unit
from sidedoor.errors import ConfigError
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door
from sidedoor.tasks.classification import Classification
from sidedoor.triggers.base import Trigger, stamp
from sidedoor.triggers.patch import Patch, checkerboard
from sidedoor.types import MEASUREMENT, PHOTO, Images, Index, Space

TASK = Classification(5)
N = 20


class Add(Trigger):
    """Add a constant."""

    def __init__(self, amount: float):
        super().__init__()
        self.amount = amount

    def forward(self, x: Images, index: Index) -> Images:
        return x + self.amount


class ByIndex(Trigger):
    """A grey that depends on the sample's position."""

    def forward(self, x: Images, index: Index) -> Images:
        return torch.ones_like(x) * random.uniform(3, index, 1, 1, 1)


def base_set(n: int = N) -> ArrayDataset:
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 100, (n, 1, 3, 4), generator=rng).to(torch.uint8)
    return ArrayDataset(images, torch.arange(n) % 5, 5)


def poison(rows: list[int], door: int = 0, cover: tuple[int, ...] = (), **more: Any) -> Poison:
    index = torch.tensor(rows, dtype=torch.int64)
    covered = torch.tensor([i in cover for i in rows], dtype=torch.bool)
    return Poison(index, torch.full_like(index, door), covered, **more)


WHITE = Door(Add(1.0), AllToOne(4))
CORNER = Door(Patch(checkerboard(1)), AllToOne(3))


def everything(data: Dataset) -> Tensor:
    return data.rows(torch.arange(len(data)))


def test_only_poisoned_rows_change() -> None:
    base = base_set()
    data = PoisonedDataset(base, Backdoor((WHITE, CORNER), Poison(
        torch.tensor([1, 5, 7]), torch.tensor([0, 1, 0]), torch.tensor([False, False, True]))), TASK)
    expected, labels = base.images.clone(), base.targets.clone()
    expected[[1, 7]] = 255
    expected[5, :, 2, 3] = 255
    labels[1], labels[5] = 4, 3  # row 7 is cover
    assert torch.equal(everything(data), expected)
    assert torch.equal(data.targets, labels)
    assert len(data) == N
    assert (data.shape, data.classes, data.space) == (base.shape, base.classes, base.space)


def test_the_base_set_is_left_alone() -> None:
    base = base_set()
    images, targets = base.images.clone(), base.targets.clone()
    data = PoisonedDataset(base, Backdoor((WHITE,), poison([0, 3])), TASK)
    data.fetch(torch.tensor([0, 1, 3]))
    assert torch.equal(base.images, images)
    assert torch.equal(base.targets, targets)


def test_the_truth_is_1_for_poison_0_for_clean_and_nan_for_cover() -> None:
    truth = PoisonedDataset(base_set(), Backdoor((WHITE,), poison([2, 4, 6], cover=(4,))), TASK).is_poisoned()
    assert truth[[2, 6]].tolist() == [1, 1]
    assert torch.isnan(truth).nonzero()[:, 0].tolist() == [4]
    assert truth.nansum() == 2


def test_crafted_images_and_given_labels_are_taken_as_they_are() -> None:
    crafted = torch.full((2, 1, 3, 4), 7, dtype=torch.uint8)
    made = poison([3, 8], images=crafted, targets=torch.tensor([0, 2]))
    data = PoisonedDataset(base_set(), Backdoor((WHITE,), made), TASK)
    assert (everything(data)[[3, 8]] == 7).all()
    assert data.targets[[3, 8]].tolist() == [0, 2]


def test_appended_rows_follow_and_keep_the_position_of_their_originals() -> None:
    base = base_set()
    data = PoisonedDataset(base, Backdoor((WHITE,), poison([2, 2, 9], cover=(9,), append=True)), TASK)
    assert len(data) == N + 3
    assert torch.equal(everything(data)[:N], base.images)
    assert (everything(data)[N:] == 255).all()
    assert data.targets[N:].tolist() == [4, 4, 9 % 5]
    assert data.position(torch.arange(N + 3)).tolist() == [*range(N), 2, 2, 9]
    assert data.is_poisoned()[:N].sum() == 0
    assert data.is_poisoned()[N : N + 2].tolist() == [1, 1]
    assert torch.isnan(data.is_poisoned()[N + 2])


@settings(deadline=None, max_examples=60)
@given(data=st.data(), append=st.booleans())
def test_any_rows_in_any_order_are_those_of_the_whole_set(data: st.DataObject, append: bool) -> None:
    rows = sorted(data.draw(st.sets(st.integers(0, N - 1), max_size=8)))
    base = base_set()
    poisoned = PoisonedDataset(base, Backdoor((WHITE,), poison(rows, append=append)), TASK)
    whole, labels, positions = base.images.clone(), base.targets.clone(), list(range(N))
    if append:
        whole = torch.cat([whole, torch.full((len(rows), 1, 3, 4), 255, dtype=torch.uint8)])
        labels = torch.cat([labels, torch.full((len(rows),), 4)])
        positions += rows
    else:
        whole[rows], labels[rows] = 255, 4
    asked = torch.tensor(data.draw(st.lists(st.integers(0, len(poisoned) - 1), max_size=30)), dtype=torch.int64)
    batch = poisoned.fetch(asked)
    assert torch.equal(poisoned.rows(asked), whole[asked])
    assert torch.equal(batch.x, unit(whole[asked], PHOTO))
    assert torch.equal(batch.y, labels[asked])
    assert torch.equal(batch.index, torch.tensor(positions)[asked])


def test_a_row_is_stamped_in_training_as_the_same_sample_is_at_test_time() -> None:
    base = Subset(base_set(), torch.arange(N - 1, -1, -1))
    door = Door(ByIndex(), AllToOne(4))
    data = PoisonedDataset(base, Backdoor((door,), poison([2, 6])), TASK)
    x, _, index = base.fetch(torch.tensor([2, 6]))
    assert index.tolist() == [17, 13]
    assert torch.equal(data.fetch(torch.tensor([2, 6])).x, stamp(door.trigger, x, index, PHOTO))


def test_only_poisoned_rows_are_kept_in_memory() -> None:
    data = PoisonedDataset(base_set(), Backdoor((WHITE,), poison([1, 5])), TASK)
    assert tuple(data.images.shape) == (2, 1, 3, 4)
    assert data.images.dtype == torch.uint8
    own = {k: v for k, v in vars(data).items() if isinstance(v, Tensor) and k != "targets"}
    assert sum(tensor.nbytes for tensor in own.values()) == 2 * 12 + 2 * 8


@pytest.mark.parametrize("append", [False, True])
def test_rows_beyond_the_limit_lie_on_the_disk_and_are_the_same(monkeypatch: pytest.MonkeyPatch, append: bool) -> None:
    made = Backdoor((Door(ByIndex(), AllToOne(4)),), poison([2, 3, 11], append=append))
    inside = PoisonedDataset(base_set(), made, TASK)
    asked: list[tuple[int, ...]] = []
    storage = dataset.storage

    def counted(shape: tuple[int, ...], limit: int) -> np.ndarray:
        place = storage(shape, limit)
        asked.append((isinstance(place, np.memmap), *shape))
        return place

    monkeypatch.setattr(dataset, "storage", counted)
    monkeypatch.setattr(dataset, "MEMORY_LIMIT", 35)
    outside = PoisonedDataset(base_set(), made, TASK)
    assert asked == [(True, 3, 1, 3, 4)]
    assert torch.equal(everything(outside), everything(inside))
    assert outside.fingerprint() == inside.fingerprint()
    assert torch.equal(seal(outside)[1], seal(inside)[1])


def test_measurements_beyond_the_limit_lie_on_the_disk_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    data = base_set()
    data.space = MEASUREMENT
    data.images = data.images.float() / 7  # type: ignore[union-attr]
    made = Backdoor((Door(Add(0.123), AllToOne(4)),), poison([1, 5]))
    inside = PoisonedDataset(data, made, TASK)
    monkeypatch.setattr(dataset, "MEMORY_LIMIT", 0)
    outside = PoisonedDataset(data, made, TASK)
    assert inside.images.dtype == outside.images.dtype == torch.float32
    assert torch.equal(inside.images, outside.images)
    assert torch.equal(outside.images, data.images[torch.tensor([1, 5])] + 0.123)


def test_no_poison_is_the_base_set() -> None:
    base = base_set()
    data = PoisonedDataset(base, Backdoor((WHITE,)), TASK)
    assert torch.equal(everything(data), base.images)
    assert data.position(torch.arange(N)).tolist() == list(range(N))
    assert data.is_poisoned().sum() == 0


@pytest.mark.parametrize(("rows", "message"), [
    ([N], "rows from 20 to 20 given; expected 0 to 19"), ([-1, 3], "rows from -1 to 3 given"),
    ([3, 2], "ascending"), ([3, 3], "without repeats")])
def test_rows_that_cannot_be_are_refused(rows: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PoisonedDataset(base_set(), Backdoor((WHITE,), poison(rows)), TASK)


def test_rows_doors_and_marks_must_be_as_many() -> None:
    with pytest.raises(ConfigError, match="2 rows, 1 doors and 2 cover marks"):
        Poison(torch.tensor([1, 2]), torch.tensor([0]), torch.tensor([False, False]))


@pytest.mark.parametrize(("change", "message"), [
    ({"door": 1}, "door"), ({"images": torch.zeros(1, 1, 3, 4, dtype=torch.uint8)}, "images"),
    ({"targets": torch.tensor([1])}, "targets"), ({"targets": torch.tensor([1, 5])}, "5")])
def test_poison_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PoisonedDataset(base_set(), Backdoor((WHITE,), poison([1, 2], **change)), TASK)


def test_a_goal_of_a_class_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="targets from 50 to 50 given; expected 0 to"):
        PoisonedDataset(base_set(), Backdoor((Door(WHITE.trigger, AllToOne(50)),), poison([1, 2])), TASK)


def test_the_fingerprint_follows_content() -> None:
    def fingerprint(*rows: int, door: Door = WHITE) -> str:
        return PoisonedDataset(base_set(), Backdoor((door,), poison(list(rows))), TASK).fingerprint()

    assert fingerprint(1, 2) == fingerprint(1, 2)
    assert len({fingerprint(1, 2), fingerprint(1), fingerprint(1, 2, door=CORNER), fingerprint()}) == 4


# the sealed view


def reachable(thing: object) -> list[object]:
    """The values of an object's attributes, those of their attributes, and so on."""
    found, waiting = [], [thing]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += list(vars(one).values()) if hasattr(one, "__dict__") and not isinstance(one, type) else []
        waiting += list(one) if isinstance(one, tuple | list) else []
        waiting += list(one.values()) if isinstance(one, dict) else []
    return found


def test_the_view_has_the_rows_but_nothing_that_tells_them_apart() -> None:
    data = PoisonedDataset(base_set(), Backdoor((WHITE,), poison([1, 5])), TASK)
    view, order = seal(data)
    assert torch.equal(order, torch.arange(N))
    assert torch.equal(everything(view), everything(data))
    assert torch.equal(view.targets, data.targets)
    assert any(isinstance(one, Poison) for one in reachable(data))  # the premise: the walk finds it
    assert not any(isinstance(one, Poison | PoisonedDataset | Backdoor | Door) for one in reachable(view))
    assert not any(hasattr(view, name) for name in ("poison", "is_poisoned", "base", "rows_at", "images"))
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(view)


def test_appended_rows_are_shuffled_among_the_others_and_positions_do_not_betray_them() -> None:
    data = PoisonedDataset(base_set(), Backdoor((WHITE,), poison([2, 4, 6, 8], append=True)), TASK)
    view, order = seal(data)
    assert order.sort().values.tolist() == list(range(N + 4))
    assert torch.equal(everything(view), everything(data)[order])
    assert torch.equal(view.targets, data.targets[order])
    whites = (everything(view) == 255).flatten(1).all(1).nonzero()[:, 0].tolist()
    assert whites != list(range(N, N + 4))
    assert torch.equal(data.is_poisoned()[order].nonzero()[:, 0], torch.tensor(whites))
    assert view.fetch(torch.tensor([3, 0])).index.tolist() == [3, 0]
    assert torch.equal(seal(data)[1], order)


def test_a_staged_view_is_sealed_and_the_same() -> None:
    data = PoisonedDataset(base_set(), Backdoor((WHITE,), poison([1, 5], append=True)), TASK)
    view, _ = seal(data)
    staged = view.staged(torch.device("cpu"))
    assert isinstance(staged, Sealed)
    assert torch.equal(everything(staged), everything(view))
    assert staged.fingerprint() == view.fingerprint() != data.fingerprint()


def test_relabelling_the_view_does_not_reach_the_truth() -> None:
    data = PoisonedDataset(base_set(), Backdoor((WHITE,), poison([1])), TASK)
    before = data.targets.clone()
    seal(data)[0].targets[:] = 0
    assert torch.equal(data.targets, before)


# stamp(), unit() and stored()


def test_all_256_levels_survive_storage_exactly() -> None:
    raw = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(stored(unit(raw, PHOTO), PHOTO), raw)
    x = unit(raw, PHOTO)
    assert (x.min(), x.max()) == (0, 1)
    assert (x.double() * 255 - raw).abs().max() < 1e-4


@given(low=st.floats(-10, 10), width=st.floats(0.1, 20), levels=st.integers(1, 255))
def test_storage_is_exact_in_other_ranges_and_levels(low: float, width: float, levels: int) -> None:
    space = Space(low, low + width, levels)
    raw = torch.arange(levels + 1, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    assert torch.equal(stored(unit(raw, space), space), raw)


@given(st.floats(-0.999, 0.999), st.integers(0, 99))
def test_stamping_gives_what_a_file_of_it_would(amount: float, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    x = unit(torch.randint(0, 256, (3, 1, 4, 4), generator=rng).to(torch.uint8), PHOTO)
    stamped = stamp(Add(amount), x, torch.arange(3), PHOTO)
    assert torch.equal(unit(stored(stamped, PHOTO), PHOTO), stamped)
    assert (stamped - (x + amount).clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-6


def test_a_trigger_below_half_a_level_is_destroyed() -> None:
    x = unit(torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16), PHOTO)
    assert torch.equal(stamp(Add(0.4 / 255), x, torch.arange(1), PHOTO), x)
    torch.testing.assert_close(stamp(Add(0.6 / 255), x, torch.arange(1), PHOTO).flatten()[:255], x.flatten()[1:])


def test_measurements_are_neither_clipped_nor_rounded() -> None:
    x = torch.tensor([-5.0, 0.123456, 7.0]).reshape(3, 1, 1, 1)
    assert torch.equal(stamp(Add(0.001), x, torch.arange(3), MEASUREMENT), x + 0.001)
    with pytest.raises(ConfigError, match="no 8-bit form"):
        stored(x, MEASUREMENT)


def test_the_gradient_passes_the_rounding_and_stops_at_the_clipping() -> None:
    x = torch.tensor([0.2, 0.5, 0.95]).reshape(3, 1, 1, 1).requires_grad_()
    stamp(Add(0.1), x, torch.arange(3), PHOTO).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.flatten(), torch.tensor([1.0, 1.0, 0.0]))


def test_stamping_does_not_write_into_the_image() -> None:
    x = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    copy = x.clone()
    stamp(CORNER.trigger, x, torch.arange(2), PHOTO)
    assert torch.equal(x, copy)
