"""Clips of a user: layouts, boxes, canvases and errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sidedoor import load
from sidedoor.data.base import Splits
from sidedoor.data.sets.clips import read_clip
from sidedoor.errors import ConfigError


def write(top: Path, name: str, lines: list[str], frames: int = 0, below: str = "img",
          size: tuple[int, int] = (20, 40)) -> Path:
    folder = top / name / below
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(name) + len(below))
    for k in range(frames or len(lines)):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / f"{k + 1:04}.png")
    (top / name / "groundtruth.txt").write_text("\n".join(lines))
    return top / name


def read(top: Path, height: int = 20, width: int = 40) -> Splits:
    return load({"name": "clips", "path": str(top), "height": height, "width": width})


@pytest.mark.parametrize("separator", [",", "\t", " ", ", "])
def test_four_numbers_are_a_corner_that_counts_from_one_and_a_size(tmp_path: Path, separator: str) -> None:
    clip = read_clip(write(tmp_path, "a", [separator.join(["5", "3", "10", "7"])] * 2))
    assert clip.boxes.tolist() == [[4, 2, 14, 9]] * 2


def test_of_a_polygon_the_hull_is_taken(tmp_path: Path) -> None:
    clip = read_clip(write(tmp_path, "a", ["5,1,9,4,6,8,2,5"], below="color"))
    assert clip.boxes.tolist() == [[1, 0, 8, 7]]


def test_frames_without_the_object_have_no_box(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path, name, ["5,3,10,7", "NaN,NaN,NaN,NaN", "0,0,0,0", "6,3,10,7"], below="")
    train, _ = read(tmp_path)
    assert train.boxes is not None
    assert (train.boxes[:, 0, 0] >= 0).tolist() == [True, False, False, True]
    assert (train.boxes[1] == -1).all()


def test_frames_are_made_smaller_to_fit_and_never_larger(tmp_path: Path) -> None:
    write(tmp_path, "large", ["21,11,20,10"] * 2, size=(80, 80))
    write(tmp_path, "small", ["3,3,4,4"] * 2, size=(10, 10))
    parts = read(tmp_path, 40, 60)
    for data in parts:
        assert data.zoom is not None
        assert data.boxes is not None
        large = data.classes[int(data.targets[0])] == "large"
        assert data.zoom.tolist() == [0.5 if large else 1.0] * 2
        assert data.boxes[0, 0, 1:].tolist() == ([10, 5, 20, 10] if large else [2, 2, 6, 6])
        side = 40 if large else 10
        rest = data.rows(torch.tensor([0]))[0, :, :, side:]
        assert (rest == rest[:, :1, :1]).all()


def test_a_third_is_held_out_and_given_parts_are_taken(tmp_path: Path) -> None:
    for k in range(6):
        write(tmp_path / "all", f"clip{k}", ["5,3,10,7"] * 2)
    train, test = read(tmp_path / "all")
    assert train.groups is not None
    assert test.groups is not None
    assert (len(train.groups.unique()), len(test.groups.unique())) == (4, 2)
    for part in ("train", "val"):
        write(tmp_path / "got" / part, f"{part}1", ["5,3,10,7"] * 2, below="")
    train, test = read(tmp_path / "got")
    assert train.classes == ("train1", "val1")
    assert test.targets.tolist() == [1, 1]


@pytest.mark.parametrize(("lines", "frames", "message"), [
    (["5,3,10"], 1, r"line 1: '5,3,10' given; expected 4 numbers"), (["5,3,10,x"], 1, "expected 4 numbers"),
    (["5,3,10,7"] * 3, 2, "3 lines for 2 frames"), (["nan,nan,nan,nan"], 1, "has no box")])
def test_what_is_wrong_is_said(tmp_path: Path, lines: list[str], frames: int, message: str) -> None:
    folder = write(tmp_path, "a", lines, frames)
    with pytest.raises(ConfigError, match=message):
        read_clip(folder)


def test_missing_files_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path, "a", ["5,3,10,7"])
    with pytest.raises(ConfigError, match="has 1 clips; expected at least two"):
        read(tmp_path)
    (folder / "img" / "0001.png").write_bytes(b"no image")
    write(tmp_path, "b", ["5,3,10,7"])
    with pytest.raises(ConfigError, match="a frame of the clip a cannot be read"):
        read(tmp_path)
    (folder / "img" / "0001.png").unlink()
    with pytest.raises(ConfigError, match="has no frames"):
        read_clip(folder)
    (folder / "groundtruth.txt").unlink()
    write(tmp_path / "c", "a", ["5,3,10,7"])
    (tmp_path / "c" / "a" / "groundtruth.txt").unlink()
    with pytest.raises(ConfigError, match=r"has no groundtruth\*\.txt"):
        read_clip(tmp_path / "c" / "a")
