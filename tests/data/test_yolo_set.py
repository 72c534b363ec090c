"""Folders with boxes: pixels and boxes of every image, and what is wrong with a broken one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sidedoor import zoo
from sidedoor.data.root import Where
from sidedoor.data.sets import yolo as sets_yolo
from sidedoor.data.sets.yolo import yolo
from sidedoor.errors import CannotComplete, ConfigError


def made(root: Path, labels: dict[str, str], classes: object = ("cat", "dog", "owl")) -> Path:
    """Two images a part, of 40×20 pixels; labels by "train/a" and the like."""
    top = root / "mine"
    for part in ("train", "val"):
        for n, name in enumerate("ab"):
            file = top / "images" / part / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((20, 40, 3), 60 * (n + 1), np.uint8)).save(file)
    for name, text in labels.items():
        file = top / "labels" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    if classes is not None:
        (top / "names.json").write_text(json.dumps(classes))
    return top


def test_boxes_are_in_pixels_of_the_stretched_image(tmp_path: Path) -> None:
    top = made(tmp_path, {"train/a": "1 0.5 0.5 0.5 0.25\n0 0.1 0.1 0.2 0.2\n", "val/b": "2 0.5 0.5 1 1\n"})
    train, test = yolo(Where(None), str(top), size=64)
    assert train.boxes is not None
    assert test.boxes is not None
    assert train.boxes[0, 0].tolist() == pytest.approx([1, 16, 24, 48, 40])
    assert train.boxes[0, 1].tolist() == pytest.approx([0, 0, 0, 12.8, 12.8], abs=1e-5)
    assert train.boxes[1].tolist() == [[-1] * 5] * 2
    assert test.boxes[1, 0].tolist() == [2, 0, 0, 64, 64]
    assert train.classes == ("cat", "dog", "owl")
    assert (train.targets.tolist(), test.targets.tolist()) == ([1, 0], [0, 2])
    assert train.shape == (3, 64, 64)
    assert train.fetch(train.targets.new_tensor([1])).x.unique().tolist() == [pytest.approx(120 / 255)]


def test_names_may_be_a_table_a_list_of_lines_or_missing(tmp_path: Path) -> None:
    labels = {"train/a": "1 0.5 0.5 0.5 0.5"}
    assert yolo(Where(None), str(made(tmp_path / "1", labels, {"0": "x", "1": "y"}))).train.classes == ("x", "y")
    assert yolo(Where(None), str(made(tmp_path / "2", labels, None))).train.classes == ("0", "1")
    top = made(tmp_path / "3", labels, None)
    (top / "classes.txt").write_text("x\ny\n")
    assert yolo(Where(None), str(top)).train.classes == ("x", "y")


@pytest.mark.parametrize(("line", "classes", "expected"), [
    ("1 0.5 0.5 0.5", ("a", "b"), r"a\.txt, line 1"), ("one 0.5 0.5 0.5 0.5", ("a", "b"), r"a\.txt, line 1"),
    ("1 0.5 0.5 1.5 0.5", ("a", "b"), r"a\.txt, line 1"), ("1.5 0.5 0.5 0.5 0.5", ("a", "b"), r"a\.txt, line 1"),
    ("-1 0.5 0.5 0.5 0.5", ("a", "b"), r"a\.txt, line 1"), ("nan 0.5 0.5 0.5 0.5", ("a", "b"), r"a\.txt, line 1"),
    ("1 0.5 0.5 0 0.5", ("a", "b"), r"a\.txt, line 1"), ("999999999 0.5 0.5 0.2 0.2", None, "class 999999999"),
    ("2 0.5 0.5 0.5 0.5", ("a", "b"), r"a label of class 2, but .*names\.json has names for 2"),
    ("0 0.5 0.5 0.5 0.5", {"1": "b"}, r"names\.json cannot be used"), ("0 0.5 0.5 0.5 0.5", 3, r"names\.json cannot"),
])
def test_broken_labels_are_said(line: str, classes: object, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=expected):
        yolo(Where(None), str(made(tmp_path, {"train/a": line}, classes)))


@pytest.mark.parametrize("number", [10_000, 999_999_999])
def test_a_class_number_is_no_number_of_classes(number: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"a label of class {number}; expected less than 10,000"):
        yolo(Where(None), str(made(tmp_path, {"train/a": f"{number} 0.5 0.5 0.5 0.5"}, None)))


def test_labels_that_are_no_text_are_named(tmp_path: Path) -> None:
    top = made(tmp_path, {"train/a": "\ufeff0 0.5 0.5 0.5 0.5"})
    assert yolo(Where(None), str(top), size=32).train.targets.tolist() == [0, 0]
    (top / "labels/train/a.txt").write_bytes(b"0 0.5 0.5 0.5 0.5 # \xe9")
    with pytest.raises(ConfigError, match=r"a\.txt cannot be read: it is not text in UTF-8"):
        yolo(Where(None), str(top))
    (top / "labels/train/a.txt").unlink()
    os.mkfifo(top / "labels/train/a.txt")
    with pytest.raises(ConfigError, match=r"a\.txt cannot be read: it is no regular file"):
        yolo(Where(None), str(top))


def test_one_image_with_very_many_boxes_is_refused(tmp_path: Path) -> None:
    top = made(tmp_path, {"train/a": "0 .5 .5 .1 .1\n" * 20})
    assert yolo(Where(None), str(top), size=32).train.boxes is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sets_yolo, "BOX_LIMIT", 39)
        with pytest.raises(ConfigError, match="an image with 20 boxes"):
            yolo(Where(None), str(top), size=32)


def test_broken_images_are_left_out_with_their_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    top = made(tmp_path, {"train/a": "1 0.5 0.5 0.5 0.5", "train/b": "2 0.5 0.5 0.5 0.5"})
    (top / "images/train/a.png").write_bytes(b"no image")
    train, _ = yolo(Where(None), str(top), size=32)
    assert train.targets.tolist() == [2]
    assert "a.png is not used" in caplog.text
    (top / "images/train/b.png").write_bytes(b"no image")
    with pytest.raises(ConfigError, match="no readable image"):
        yolo(Where(None), str(top), size=32)


def test_missing_folders_are_said(tmp_path: Path) -> None:
    with pytest.raises(CannotComplete, match="nowhere"):
        zoo.load({"name": "yolo", "path": "nowhere"}, tmp_path)
    (tmp_path / "empty" / "images").mkdir(parents=True)
    with pytest.raises(ConfigError, match="has no images for train; expected images/train"):
        zoo.load({"name": "yolo", "path": "empty"}, tmp_path)


def exported(top: Path, description: str, parts: tuple[str, ...] = ("train", "valid")) -> Path:
    """The layout of annotation tools: a folder a part, with images and labels in it."""
    for n, part in enumerate(parts):
        for folder in ("images", "labels"):
            (top / part / folder).mkdir(parents=True)
        Image.fromarray(np.full((8, 8, 3), 50 * (n + 1), np.uint8)).save(top / part / "images" / "a.jpg")
        (top / part / "labels" / "a.txt").write_text(f"{n} 0.5 0.5 0.5 0.5\n")
    if description:
        (top / "data.yaml").write_text(description)
    return top


NAMES = "names: ['no', 'yes', '3']"


@pytest.mark.parametrize("description", [
    f"train: ../train/images\nval: ../valid/images\nnc: 3\n{NAMES}\n",  # as Roboflow writes it
    "path: ../sets/mine  # root\ntrain: train\nval: valid\nnames:\n  0: no\n  1: yes\n  2: 3\ndownload: |\n  x: [\n",
    "train:\n  - train/images\nvalid: ./valid/images/\nnames:\n- no\n- yes\n- 3\n",
    f"train: /content/set/train/images\nval: /content/set/valid/images\n{NAMES}\n",
    f"{NAMES}\n",
])
def test_a_description_says_where_parts_and_names_are(description: str, tmp_path: Path) -> None:
    for path in (exported(tmp_path / "set", description), tmp_path / "set" / "data.yaml"):
        train, test = yolo(Where(None), str(path), size=8)
        assert train.classes == ("no", "yes", "3")
        assert (train.targets.tolist(), test.targets.tolist()) == ([0], [1])
        assert test.boxes is not None
        assert test.boxes.tolist() == [[[1, 2, 2, 6, 6]]]


def test_a_description_chooses_among_folders(tmp_path: Path) -> None:
    top = exported(tmp_path / "set", f"train: other/images\nval: train/images\n{NAMES}", ("train", "other", "valid"))
    train, test = yolo(Where(None), str(top), size=8)
    assert (train.targets.tolist(), test.targets.tolist()) == ([1], [0])


def test_parts_are_found_without_a_description(tmp_path: Path) -> None:
    train, test = yolo(Where(None), str(exported(tmp_path / "set", "")), size=8)
    assert (train.classes, test.targets.tolist()) == (("0", "1"), [1])


@pytest.mark.parametrize(("description", "expected"), [
    ("nc: 2\nnames: [a]\n", "nc = 2 but 1 names"), ("nc: 99999999999", "number of classes up to 10,000"),
    ("nc: many", "number of classes"), ("names: 3", "list of names"), ("names: {1: a}", "list of names"),
    ("names: [[a]]", "list of names"), ("a: [", "cannot be read as YAML"), ("- a", "has no table"),
    ("", "has no table"), ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nnames: [*c, *c]", "list of names"),
    ("a: !!python/object/apply:os.system [ls]\nnames: [x]\n", "names for 1"), ("\t", "cannot be read as YAML"),
    ("names: &x [*x]", "cannot be read as YAML"),
    ("[" * 5000, "cannot be read as YAML"), ("\0", "cannot be read as YAML"),
    ("nc: 1", "a label of class 1, but"),
], ids=lambda text: text[:30])
def test_a_broken_description_is_said(description: str, expected: str, tmp_path: Path) -> None:
    top = exported(tmp_path / "set", "train: train\n")
    (top / "data.yaml").write_text(description)
    with pytest.raises(ConfigError, match=expected):
        yolo(Where(None), str(top), size=8)


def test_nothing_outside_the_folder_is_read(tmp_path: Path) -> None:
    exported(tmp_path / "other", "")
    top = exported(tmp_path / "set", f"train: ../other/train/images\nval: {tmp_path}/other/valid/images\n{NAMES}\n")
    assert yolo(Where(None), str(top), size=8).train.targets.tolist() == [0]
    (tmp_path / "other" / "train" / "labels" / "a.txt").write_text("2 0.5 0.5 0.5 0.5\n")
    for part in ("labels", "images"):
        (top / "train" / part).rename(tmp_path / part)
        (top / "train" / part).symlink_to(tmp_path / "other" / "train" / part)
        with pytest.raises(ConfigError, match="is a link out of"):
            yolo(Where(None), str(top), size=8)
        (top / "train" / part).unlink()
        (tmp_path / part).rename(top / "train" / part)
