"""Rows, spaces, subsets, splits and wrapping."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sidedoor.data.base import ArrayDataset, Subset, dataset_root, split, storage, stored, unit, wrap
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.types import MEASUREMENT, PHOTO, Space


def numbered(n: int = 20, classes: int = 4) -> ArrayDataset:
    """Row i is filled with the value i and belongs to class i mod classes."""
    images = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 3, 4, 5).contiguous()
    return ArrayDataset(images, np.arange(n) % classes, classes)


def test_every_stored_value_survives_the_way_to_floats_and_back() -> None:
    raw = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    for space in (PHOTO, Space(-1.0, 1.0, 255)):
        assert torch.equal(stored(unit(raw, space), space), raw)


def test_unit_spans_the_space() -> None:
    ends = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2)
    assert unit(ends, PHOTO).flatten().tolist() == [0.0, 1.0]
    assert unit(ends, Space(-1.0, 1.0, 255)).flatten().tolist() == pytest.approx([-1.0, 1.0])


def test_measurements_have_no_8_bit_form_and_floats_pass_as_they_are() -> None:
    x = torch.tensor([[[[-3.5, 7.25]]]])
    assert torch.equal(unit(x, MEASUREMENT), x)
    with pytest.raises(ConfigError, match="no 8-bit form"):
        stored(x, MEASUREMENT)
    with pytest.raises(ConfigError, match="without levels"):
        unit(torch.zeros(1, dtype=torch.uint8), MEASUREMENT)


def test_fetch_gives_rows_in_the_order_asked_for() -> None:
    x, y, index = numbered().fetch(torch.tensor([7, 2, 7]))
    assert (x[:, 0, 0, 0] * 255).round().tolist() == [7, 2, 7]
    assert y.tolist() == [3, 2, 3]
    assert index.tolist() == [7, 2, 7]
    assert x.dtype == torch.float32
    assert x.shape == (3, 3, 4, 5)


def test_rows_are_a_copy() -> None:
    data = numbered()
    data.rows(torch.tensor([5])).fill_(99)
    assert data.rows(torch.tensor([5])).unique().tolist() == [5]


@pytest.mark.parametrize(
    ("images", "labels", "classes", "message"),
    [
        (np.zeros((2, 3, 4, 4), np.float32), [0, 1], 2, "float32"),
        (np.zeros((2, 4, 4), np.uint8), [0, 1], 2, r"\(2, 4, 4\)"),
        (np.zeros((0, 3, 4, 4), np.uint8), [], 2, "non-empty"),
        (np.zeros((2, 3, 4, 4), np.uint8), [0, 1, 1], 2, "2 images but 3 labels"),
        (np.zeros((2, 3, 4, 4), np.uint8), [0, 2], 2, "labels from 0 to 2"),
        (np.zeros((2, 3, 4, 4), np.uint8), [-1, 0], 2, "labels from -1 to 0"),
    ],
)
def test_arrays_that_are_no_data_set_are_refused(images: np.ndarray, labels: list[int], classes: int,
                                                 message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ArrayDataset(images, labels, classes)


def test_the_fingerprint_depends_on_pixels_labels_and_classes() -> None:
    images, labels = np.zeros((3, 1, 2, 2), np.uint8), [0, 1, 0]
    other = images.copy()
    other[1, 0, 1, 1] = 1
    sets = [ArrayDataset(images, labels, 2), ArrayDataset(other, labels, 2), ArrayDataset(images, [0, 1, 1], 2),
            ArrayDataset(images, labels, 3), ArrayDataset(images.reshape(3, 1, 1, 4), labels, 2)]
    assert len({data.fingerprint() for data in sets}) == len(sets)
    assert ArrayDataset(images.copy(), labels, 2).fingerprint() == sets[0].fingerprint()


def test_a_subset_of_a_subset_keeps_base_positions() -> None:
    inner = Subset(numbered(), torch.tensor([3, 5, 9, 11]))
    outer = Subset(inner, torch.tensor([2, 0]))
    x, y, index = outer.fetch(torch.arange(2))
    assert index.tolist() == [9, 3]
    assert (x[:, 0, 0, 0] * 255).round().tolist() == [9, 3]
    assert y.tolist() == [1, 3]
    assert len({numbered().fingerprint(), inner.fingerprint(), outer.fingerprint()}) == 3


@settings(max_examples=40, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=10, max_size=60),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31),
)
def test_a_split_is_a_stratified_partition(labels: list[int], share: float, seed: int) -> None:
    labels = labels + [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    data = ArrayDataset(np.zeros((len(labels), 1, 1, 1), np.uint8), labels, 5)
    rest, chosen = split(data, share, seed)
    positions = [part.position(torch.arange(len(part))).tolist() for part in (rest, chosen)]
    assert sorted(positions[0] + positions[1]) == list(range(len(labels)))
    for label in range(5):
        of_class, cut = labels.count(label), int((chosen.targets == label).sum())
        assert 1 <= cut < of_class
        assert abs(cut - share * of_class) <= 1
    assert [p.tolist() for p in (split(data, share, seed)[1].targets,)] == [chosen.targets.tolist()]


def test_another_seed_cuts_other_rows() -> None:
    cuts = [split(numbered(40), 0.5, seed)[1].position(torch.arange(20)).tolist() for seed in (0, 1)]
    assert cuts[0] != cuts[1]


def test_what_cannot_be_split_is_refused() -> None:
    with pytest.raises(ConfigError, match="share of 1"):
        split(numbered(), 1.0, 0)
    with pytest.raises(ConfigError, match="'3' has one sample"):
        split(ArrayDataset(np.zeros((4, 1, 1, 1), np.uint8), [0, 0, 3, 0], 4), 0.5, 0)


def test_wrap_reads_every_kind_of_image_to_the_same_pixels() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    tensor = torch.from_numpy(array.transpose(2, 0, 1).copy())
    kinds = [Image.fromarray(array), array, tensor, tensor.float() / 255, array / 255]
    data = wrap([(image, k % 2) for k, image in enumerate(kinds)])
    assert data.shape == (3, 2, 4)
    assert all(torch.equal(row, tensor) for row in data.rows(torch.arange(5)))
    assert data.targets.tolist() == [0, 1, 0, 1, 0]
    assert data.classes == ("0", "1")


def test_wrap_reads_grey_images() -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    data = wrap([(Image.fromarray(grey), 0), (torch.from_numpy(grey), 1), (torch.from_numpy(grey)[None], 1)])
    assert data.shape == (1, 2, 3)
    assert torch.equal(data.rows(torch.tensor([0, 1, 2])), torch.from_numpy(grey).expand(3, 1, 2, 3))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "empty data set"),
        ([(torch.full((3, 2, 2), 1.5), 0)], r"expected \[0, 1\]"),
        ([(torch.full((3, 2, 2), -0.5), 0)], "normalisation"),
        ([(np.full((2, 2, 3), 255.0, np.float32), 0)], r"values from 255 to 255; expected \[0, 1\]"),
        ([(np.full((2, 2, 3), np.nan), 0)], r"expected \[0, 1\]"),
        ([(np.zeros((2, 2), np.uint16), 0)], "uint16"),
        ([(Image.fromarray(np.zeros((2, 2), np.uint16)), 0)], "mode I;16, more than 8 bits"),
        ([(Image.fromarray(np.zeros((2, 2), np.float32)), 0)], "mode F, more than 8 bits"),
        ([(np.zeros((3, 8, 8), np.uint8), 0)], r"3×8 pixels with 8 channels; expected the axes"),
        ([(np.zeros((2, 2), np.uint8), np.array([0, 1, 0]))], r"label of sample 0 is '\[0 1 0\]'.* take argmax"),
        ([(np.zeros((2, 2), np.uint8), torch.tensor([0, 1]))], r"of one-hot labels, take argmax"),
        ([(np.zeros((2, 2), np.uint8), "cat")], "'cat' of type str; expected the number of a class: number the"),
        ([(np.zeros((2, 2), np.uint8), 0.5)], "label of sample 0 is '0.5'"),
        ([(np.zeros((2, 2), np.uint8), 10**9)], "a label of 1000000000 given"),
        ([{"image": np.zeros((2, 2), np.uint8), "label": 0}], "a table with the keys image, label"),
        ([np.zeros((2, 2), np.uint8)], "of type ndarray; expected"),
        ([(np.zeros((2, 2), np.uint8), 0), (np.zeros((2, 3), np.uint8), 0)], "sample 1 has the shape"),
    ],
)
def test_wrap_says_what_is_wrong_with_a_sample(samples: list[tuple[object, int]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        wrap(samples)


def test_labels_of_one_number_are_taken() -> None:
    labels = [1, np.int64(0), torch.tensor(1), torch.tensor([2]), np.array([0]), 1.0, np.array(2)]
    assert wrap([(np.zeros((2, 2), np.uint8), y) for y in labels]).targets.tolist() == [1, 0, 1, 2, 0, 1, 2]


def test_wrap_takes_names_from_what_a_subset_is_a_part_of() -> None:
    class Named(list[tuple[np.ndarray, int]]):
        classes = ("cat", "dog", "eel")

    part = torch.utils.data.Subset(torch.utils.data.Subset(Named([(np.zeros((2, 2), np.uint8), 0)] * 3), [0, 1]), [1])
    assert wrap(part).classes == ("cat", "dog", "eel")


def test_a_data_set_is_one_of_pytorch() -> None:
    data = Subset(numbered(), torch.tensor([7, 3, 5]))
    image, label = data[1]
    assert (image.shape, image.dtype, label) == ((3, 4, 5), torch.float32, 3)
    assert image.unique().tolist() == pytest.approx([3 / 255])
    assert data[-1][1] == 1
    with pytest.raises(IndexError):
        data[3]
    assert [y for _, y in data] == [3, 3, 1]
    (x, y), = torch.utils.data.DataLoader(data, batch_size=8)
    assert torch.equal(x, data.fetch(torch.arange(3)).x)
    assert y.tolist() == [3, 3, 1]


def test_wrap_takes_names_from_the_data_set_and_reports_progress() -> None:
    class Named(list[tuple[np.ndarray, int]]):
        classes = ("cat", "dog")

    seen: list[tuple[int, int]] = []
    data = wrap(Named([(np.zeros((2, 2), np.uint8), 0)] * 3), progress=lambda done, total: seen.append((done, total)))
    assert data.classes == ("cat", "dog")
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert wrap(data) is data


def test_a_set_above_the_limit_is_a_memory_map_with_the_same_rows() -> None:
    samples = [(np.full((4, 4), k, np.uint8), k % 2) for k in range(6)]
    small, mapped = wrap(samples), wrap(samples, limit=10)
    assert isinstance(small, ArrayDataset)
    assert isinstance(mapped, ArrayDataset)
    assert isinstance(mapped.images, np.memmap)
    assert isinstance(small.images, torch.Tensor)
    order = torch.tensor([4, 0, 5])
    assert torch.equal(mapped.rows(order), small.rows(order))
    assert mapped.fingerprint() == small.fingerprint()


def test_storage_turns_to_the_disk_exactly_above_the_limit() -> None:
    assert not isinstance(storage((10, 10), limit=100), np.memmap)
    assert isinstance(storage((10, 10), limit=99), np.memmap)


def test_a_missing_data_root_says_how_to_give_one() -> None:
    with pytest.raises(CannotComplete, match="--data-root"):
        dataset_root(None)


def test_measurement_space_is_unbounded() -> None:
    assert MEASUREMENT.low == -math.inf
    assert MEASUREMENT.levels is None


def test_names_of_classes_can_be_written() -> None:
    named = ArrayDataset(np.zeros((2, 1, 2, 2), np.uint8), [0, 1], ("\udcff", "猫\n"))
    assert named.classes == ("\\udcff", "猫\n")


def test_images_in_half_precision_are_taken_and_labels_below_0_are_not() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        assert wrap([(torch.full((3, 8, 8), 0.5, dtype=dtype), 0)]).fetch(torch.tensor([0])).x.unique().tolist() == \
            [pytest.approx(128 / 255)]
    with pytest.raises(ConfigError, match="a label of -1 given; expected the number of a class, 0 or more"):
        wrap([(torch.zeros(3, 8, 8), 0), (torch.zeros(3, 8, 8), -1)])
