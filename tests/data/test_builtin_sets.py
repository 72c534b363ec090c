"""The data sets that need no file: digits, toy, photos."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression

from sidedoor import registry
from sidedoor.data.base import Dataset, Splits
from sidedoor.data.root import Where
from sidedoor.errors import ConfigError


def make(name: str, seed: int = 0, **parameters: Any) -> Splits:
    return registry.make("data", {"name": name} | parameters)(Where(None, seed=seed))


def flat(part: Dataset) -> tuple[np.ndarray, np.ndarray]:
    x, y, _ = part.fetch(torch.arange(len(part)))
    return x.flatten(1).numpy(), y.numpy()


def accuracy(splits: Splits, model: Any) -> float:
    return float(model.fit(*flat(splits.train)).score(*flat(splits.test)))


def test_digits_are_scikit_learns_pixels_in_blocks_of_two_by_two() -> None:
    train, test = make("digits")
    rows = torch.empty(1797, 16, 16, dtype=torch.uint8)
    labels = torch.empty(1797, dtype=torch.int64)
    for part in (train, test):
        everything = torch.arange(len(part))
        rows[part.position(everything)] = part.rows(everything)[:, 0]
        labels[part.position(everything)] = part.targets
    original = load_digits()
    for corner in (rows[:, ::2, ::2], rows[:, 1::2, ::2], rows[:, ::2, 1::2], rows[:, 1::2, 1::2]):
        assert np.array_equal((corner.numpy() * (16 / 255)).round(), original.images)
    assert labels.tolist() == original.target.tolist()
    assert rows.max() == 255


def test_digits_have_the_same_stratified_quarter_for_every_seed() -> None:
    (train, test), (_, other) = make("digits", seed=0), make("digits", seed=1)
    assert abs(len(test) - 1797 / 4) < 5
    share = test.targets.bincount() / (test.targets.bincount() + train.targets.bincount())
    assert (share - 0.25).abs().max() < 0.01
    assert test.fingerprint() == other.fingerprint()


@pytest.mark.parametrize("difficulty", ["easy", "hard"])
def test_toy_is_the_same_every_time_and_for_every_seed(difficulty: str) -> None:
    first, second = make("toy", difficulty=difficulty), make("toy", seed=5, difficulty=difficulty)
    assert [part.fingerprint() for part in first] == [part.fingerprint() for part in second]
    assert first.train.fingerprint() != make("toy", difficulty=difficulty, size=17).train.fingerprint()


def test_toy_parts_share_no_image_and_its_difficulties_differ() -> None:
    easy, hard = make("toy", train=100, test=100), make("toy", difficulty="hard", train=100, test=100, classes=4)
    everything = torch.arange(100)
    assert not torch.equal(easy.train.rows(everything), easy.test.rows(everything))
    assert not torch.equal(easy.train.rows(everything), hard.train.rows(everything))


def test_easy_toy_is_linearly_separable_and_hard_toy_is_not() -> None:
    linear = LogisticRegression(C=0.01, max_iter=500)
    assert accuracy(make("toy"), linear) == 1.0
    hard = accuracy(make("toy", difficulty="hard"), linear)
    assert hard < 0.5


def test_hard_toy_can_be_learned_and_its_classes_overlap() -> None:
    """Gradients by orientation hold what a network would use; the ceiling is that of the docstring of the set."""
    def oriented(part: Dataset) -> tuple[np.ndarray, np.ndarray]:
        x, y, _ = part.fetch(torch.arange(len(part)))
        grey = torch.nn.functional.avg_pool2d(x.mean(1, keepdim=True), 3, 1)
        down, right = grey.diff(dim=2)[..., :-1], grey.diff(dim=3)[..., :-1, :]
        tensor = torch.stack([(down * down).mean((1, 2, 3)), (right * right).mean((1, 2, 3)),
                              (down * right).mean((1, 2, 3))], 1)
        return torch.cat([tensor / tensor.sum(1, keepdim=True), x.mean((2, 3))], 1).numpy(), y.numpy()

    train, test = make("toy", difficulty="hard", train=2000, test=1000)
    reached = ExtraTreesClassifier(200, random_state=0).fit(*oriented(train)).score(*oriented(test))
    assert 0.6 < reached < 0.9


@settings(max_examples=15, deadline=None)
@given(size=st.integers(1, 24), classes=st.integers(2, 12), extra=st.integers(0, 20),
       difficulty=st.sampled_from(["easy", "hard"]))
def test_toy_has_the_sizes_asked_for(size: int, classes: int, extra: int, difficulty: str) -> None:
    train, test = make("toy", difficulty=difficulty, size=size, classes=classes, train=classes + extra, test=classes)
    assert (len(train), len(test)) == (classes + extra, classes)
    assert train.shape == (3, size, size)
    counts = train.targets.bincount(minlength=classes)
    assert counts.max() - counts.min() <= 1
    assert sorted(test.targets.tolist()) == list(range(classes))


def test_toy_with_fewer_images_than_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match="one a class"):
        make("toy", test=3)


def test_photos_are_split_by_photograph() -> None:
    train, test = make("photos")
    assert set(train.targets.tolist()).isdisjoint(test.targets.tolist())
    assert {train.classes[k] for k in set(test.targets.tolist())} == {"coffee", "flower"}
    assert set(train.targets.tolist()) | set(test.targets.tolist()) == set(range(len(train.classes)))
    assert train.classes == test.classes
    assert train.shape == (3, 64, 64)


def test_photos_are_grids_of_patches_of_the_shipped_files() -> None:
    from skimage.data import coffee

    test = make("photos", size=100).test
    rows = test.rows(torch.arange(len(test)))[test.targets == test.classes.index("coffee")]
    whole = torch.from_numpy(coffee()).permute(2, 0, 1)
    assert len(rows) == 4 * 6
    assert torch.equal(rows[0], whole[:, :100, :100])
    assert torch.equal(rows[7], whole[:, 100:200, 100:200])


def test_patches_larger_than_a_photograph_are_refused() -> None:
    with pytest.raises(ConfigError, match="chelsea"):
        make("photos", size=301)
