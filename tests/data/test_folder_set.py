"""A folder of images as a data set: layouts, splits, and what is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sidedoor import registry
from sidedoor.data.base import Splits, Subset
from sidedoor.data.root import Where
from sidedoor.errors import CannotComplete, ConfigError


def build(top: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 10, first: int = 0) -> None:
    """Grey images; that of file i of class k is filled with first + 20 k + i."""
    for k, name in enumerate(classes):
        (top / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(np.full((6, 6), first + 20 * k + i, np.uint8)).save(top / name / f"{i:02d}.png")


def load(top: Path, seed: int = 0, **parameters: int) -> Splits:
    return registry.make("data", {"name": f"folder:{top}"} | parameters)(Where(None, seed=seed))


def values(part: torch.utils.data.Dataset[object] | Subset) -> list[int]:
    return part.rows(torch.arange(len(part)))[:, 0, 0, 0].tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize("test_name", ["test", "val", "valid", "validation"])
def test_train_and_test_folders_are_the_parts(test_name: str, tmp_path: Path) -> None:
    build(tmp_path / "train")
    build(tmp_path / test_name, count=3, first=100)
    train, test = load(tmp_path)
    assert values(train) == [*range(10), *range(20, 30)]
    assert values(test) == [100, 101, 102, 120, 121, 122]
    assert test.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert train.classes == test.classes == ("cat", "dog")
    assert train.shape == test.shape == (1, 6, 6)


def test_a_plain_folder_is_split_by_seed(tmp_path: Path) -> None:
    build(tmp_path)
    parts = [load(tmp_path, seed) for seed in (0, 0, 1)]
    for train, test in parts:
        assert sorted(values(train) + values(test)) == [*range(10), *range(20, 30)]
        assert test.targets.tolist() == [0, 0, 1, 1]
    assert values(parts[0].test) == values(parts[1].test)
    assert values(parts[0].test) != values(parts[2].test)


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    build(tmp_path, ("plane", "train"))
    assert load(tmp_path).train.classes == ("plane", "train")


@pytest.mark.parametrize(("train", "test"), [("Training", "Testing"), ("train_set", "test_set"), ("TRAIN", "Val")])
def test_parts_are_known_by_their_usual_names(train: str, test: str, tmp_path: Path) -> None:
    build(tmp_path / train)
    build(tmp_path / test, count=3, first=100)
    parts = load(tmp_path)
    assert parts.train.classes == ("cat", "dog")
    assert values(parts.train) == [*range(10), *range(20, 30)]
    assert values(parts.test) == [100, 101, 102, 120, 121, 122]


def test_two_training_parts_are_refused_and_a_third_part_is_named(tmp_path: Path,
                                                                  caplog: pytest.LogCaptureFixture) -> None:
    for name in ("train", "test", "val"):
        build(tmp_path / name)
    load(tmp_path)
    assert "only train and test are used, not val" in caplog.text
    build(tmp_path / "Training")
    with pytest.raises(ConfigError, match="both look like training data"):
        load(tmp_path)


def test_a_folder_around_everything_is_looked_into(tmp_path: Path) -> None:
    build(tmp_path / "a" / "b" / "set")
    build(tmp_path / "__MACOSX" / "set")
    assert load(tmp_path / "a").train.classes == load(tmp_path / "a" / "b" / "set").train.classes == ("cat", "dog")
    assert load(tmp_path / "a").train.fingerprint() == load(tmp_path / "a" / "b" / "set").train.fingerprint()
    build(tmp_path / "parts" / "inner" / "train")
    build(tmp_path / "parts" / "inner" / "test", count=1)
    assert len(load(tmp_path / "parts").test) == 2


def test_folders_that_have_the_same_folders_are_no_classes(tmp_path: Path) -> None:
    build(tmp_path / "photos")
    build(tmp_path / "thumbs")
    with pytest.raises(ConfigError, match=r"photos and thumbs in .* have the same folders cat, dog"):
        load(tmp_path)


def test_numbered_classes_come_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    build(tmp_path / "numbers", tuple(map(str, range(12))), count=2)
    assert load(tmp_path / "numbers").train.classes == tuple(map(str, range(12)))
    build(tmp_path / "names", ("1", "10", "2", "x"), count=2)
    assert load(tmp_path / "names").train.classes == ("1", "10", "2", "x")


def test_what_systems_put_beside_is_passed_over(tmp_path: Path) -> None:
    build(tmp_path)
    build(tmp_path, ("@eaDir", "__MACOSX"))
    build(tmp_path / "cat", ("@eaDir",))
    shutil.copy(tmp_path / "cat" / "00.png", tmp_path / "cat" / "99.jfif")
    train, test = load(tmp_path)
    assert train.classes == ("cat", "dog")
    assert len(train) + len(test) == 21


def test_size_and_channels_can_be_chosen(tmp_path: Path) -> None:
    build(tmp_path)
    assert load(tmp_path, size=4, channels=3).train.shape == (3, 4, 4)


def test_quarantined_files_are_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build(tmp_path)
    (tmp_path / "dog" / "03.png").write_bytes(b"text")
    train, test = load(tmp_path)
    assert sorted(values(train) + values(test)) == [*range(10), *(v for v in range(20, 30) if v != 23)]
    assert "03.png is not used" in caplog.text


def test_what_is_no_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotComplete, match="does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no class folders"):
        load(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        load(tmp_path / "file")


def test_train_without_test_is_refused(tmp_path: Path) -> None:
    build(tmp_path / "train")
    with pytest.raises(ConfigError, match=r"no test/, val/ or the like.* give .*/train"):
        load(tmp_path)
    assert len(load(tmp_path / "train").test) == 4  # what the message advises


def test_classes_that_differ_are_named(tmp_path: Path) -> None:
    build(tmp_path / "train", ("cat", "dog"))
    build(tmp_path / "test", ("cat", "fox"))
    with pytest.raises(ConfigError, match="different classes: dog, fox"):
        load(tmp_path)


def test_a_test_class_without_a_readable_image_is_named(tmp_path: Path) -> None:
    build(tmp_path / "train")
    build(tmp_path / "test", count=1)
    (tmp_path / "test" / "dog" / "00.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"test: no readable image in class dog"):
        load(tmp_path)


def test_linked_parts_are_refused(tmp_path: Path) -> None:
    build(tmp_path / "top" / "test")
    build(tmp_path / "elsewhere")
    (tmp_path / "top" / "train").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="train is a link"):
        load(tmp_path / "top")


def test_a_name_that_is_not_utf_8_can_be_written(tmp_path: Path) -> None:
    build(tmp_path, (os.fsdecode("日本".encode("shift-jis")), os.fsdecode("Straße".encode("latin-1")), "plain"))
    classes = load(tmp_path).train.classes
    assert classes == ("Stra\\udcdfe", "plain", "\\udc93\\udcfa\\udc96{")
    assert [name.encode() for name in classes]


def test_names_that_one_system_composes_and_another_does_not_are_the_same(tmp_path: Path) -> None:
    build(tmp_path / "train", ("cafe\u0301", "th\u00e9"))
    build(tmp_path / "test", ("caf\u00e9", "th\u00e9"), count=2, first=100)
    train, test = load(tmp_path)
    assert train.classes == test.classes == ("cafe\u0301", "th\u00e9")
    assert values(test) == [100, 101, 120, 121]
    assert test.targets.tolist() == [0, 0, 1, 1]


def test_two_spellings_of_a_name_are_two_classes(tmp_path: Path) -> None:
    for part in ("train", "test"):
        build(tmp_path / part, ("cafe\u0301", "caf\u00e9"))
    assert len(load(tmp_path).test.classes) == 2
