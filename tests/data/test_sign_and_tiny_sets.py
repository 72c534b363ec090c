"""GTSRB and Tiny ImageNet in the layouts that they are unpacked to."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sidedoor import registry
from sidedoor.data.root import Where
from sidedoor.errors import CannotComplete


def save(path: Path, value: int, size: tuple[int, int] = (9, 7)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


def write_gtsrb(root: Path) -> None:
    """Training image i of class k is filled with 3 k + i; test image k with 200 - k, its class is 42 - k."""
    top = root / "gtsrb"
    for k in range(43):
        for i in range(2):
            save(top / "GTSRB" / "Training" / f"{k:05d}" / f"00000_{i:05d}.ppm", 3 * k + i)
        (top / "GTSRB" / "Training" / f"{k:05d}" / f"GT-{k:05d}.csv").write_text("Filename;ClassId\n")
        save(top / "GTSRB" / "Final_Test" / "Images" / f"{k:05d}.ppm", 200 - k)
    rows = [f"{k:05d}.ppm;7;9;1;1;6;8;{42 - k}" for k in range(43)]
    header = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
    (top / "GT-final_test.csv").write_text("\n".join([header, *rows]) + "\n")


def test_gtsrb_is_read_from_torchvisions_layout(tmp_path: Path) -> None:
    write_gtsrb(tmp_path)
    train, test = registry.make("data", "gtsrb")(Where(tmp_path))
    assert train.shape == test.shape == (3, 32, 32)
    assert train.rows(torch.arange(86))[:, 0, 5, 5].tolist() == [3 * k + i for k in range(43) for i in range(2)]
    assert train.targets.tolist() == [k for k in range(43) for _ in range(2)]
    assert test.rows(torch.arange(43))[:, 0, 5, 5].tolist() == [200 - k for k in range(43)]
    assert test.targets.tolist() == [42 - k for k in range(43)]
    assert (len(set(train.classes)), train.classes[14]) == (43, "stop")
    assert registry.make("data", {"name": "gtsrb", "size": 20})(Where(tmp_path)).test.shape == (3, 20, 20)


def test_gtsrb_is_the_same_as_torchvision_sees_it(tmp_path: Path) -> None:
    import torchvision

    write_gtsrb(tmp_path)
    parts = registry.make("data", {"name": "gtsrb", "size": 9})(Where(tmp_path))
    for part, name in zip(parts, ("train", "test"), strict=True):
        theirs = torchvision.datasets.GTSRB(tmp_path, split=name)
        assert [label for _, label in theirs] == part.targets.tolist()


def test_a_damaged_table_of_gtsrb_is_named(tmp_path: Path) -> None:
    write_gtsrb(tmp_path)
    (tmp_path / "gtsrb" / "GT-final_test.csv").write_text("Filename,ClassId\n00000.ppm,1\n")
    with pytest.raises(CannotComplete, match=r"GT-final_test\.csv is damaged"):
        registry.make("data", "gtsrb")(Where(tmp_path))


def test_gtsrb_without_one_of_its_classes_is_damaged(tmp_path: Path) -> None:
    write_gtsrb(tmp_path)
    shutil.rmtree(tmp_path / "gtsrb" / "GTSRB" / "Training" / "00007")
    with pytest.raises(CannotComplete, match="expected 00000 to 00042"):
        registry.make("data", "gtsrb")(Where(tmp_path))


def test_gtsrb_is_fetched_in_both_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    parts: list[str] = []

    def fake(root: Path, download: bool, split: str) -> None:
        assert download
        parts.append(split)
        if split == "test":
            write_gtsrb(root)

    monkeypatch.setattr(torchvision.datasets, "GTSRB", fake)
    assert len(registry.make("data", "gtsrb")(Where(tmp_path, download=True)).train) == 86
    assert parts == ["train", "test"]


def write_tiny(root: Path) -> None:
    top = root / "tiny-imagenet-200"
    for k, name in enumerate(("n02", "n01")):
        for i in range(3):
            save(top / "train" / name / "images" / f"{name}_{i}.JPEG", 100 * k + 10 * i, (64, 64))
        (top / "train" / name / f"{name}_boxes.txt").write_text("0 0 1 1\n")
        save(top / "val" / "images" / f"val_{k}.JPEG", 240 + 5 * k, (64, 64))
    (top / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn02\t0\t0\t9\t9\nval_1.JPEG\tn01\t0\t0\t9\t9\n")


def test_tiny_imagenet_is_read_with_its_validation_part_as_test(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    train, test = registry.make("data", "tiny_imagenet")(Where(tmp_path))
    assert train.classes == ("n01", "n02")
    assert train.shape == (3, 64, 64)
    assert train.rows(torch.arange(6))[:, 0, 0, 0].tolist() == [100, 110, 120, 0, 10, 20]
    assert train.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert test.rows(torch.arange(2))[:, 0, 0, 0].tolist() == [240, 245]
    assert test.targets.tolist() == [1, 0]


def test_tiny_imagenet_says_where_to_get_it_and_what_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(CannotComplete, match=r"unpack http://.*tiny-imagenet-200\.zip"):
        registry.make("data", "tiny_imagenet")(Where(tmp_path, download=True))
    write_tiny(tmp_path)
    (tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn99\n")
    with pytest.raises(CannotComplete, match=r"val_annotations\.txt is damaged.*n99"):
        registry.make("data", "tiny_imagenet")(Where(tmp_path))
