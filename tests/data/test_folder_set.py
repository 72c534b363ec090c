"""A folder of images as a data set: layouts, splits, and what is refused."""

from __future__ import annotations

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
    with pytest.raises(ConfigError, match=r"none of test/, val/.* give .*/train"):
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
