"""Files that parameters name: keys hold what is in them, wherever they lie, and what was hashed is what is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sidedoor.bench.spec import Spec
from sidedoor.core import opening
from sidedoor.core.checkpoint import save_state
from sidedoor.core.foreign_weights import read_weights
from sidedoor.data.pictures import picture
from sidedoor.errors import CannotComplete
from sidedoor.models.small_cnn import small_cnn


def drawn(path: Path, grey: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (16, 16), grey).save(path, "PNG")
    return path


def state(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    save_state(path, small_cnn(4, (3, 16, 16), width=8).state_dict())
    return path


RESTORED: dict[str, Any] = {"data": "toy", "model": "dncnn"}
FORMS = {
    "baat": lambda file: {"data": "toy", "model": "small_cnn", "attack": {"name": "baat", "style": str(file)}},
    "poison_ink": lambda file: {"data": "toy", "model": "small_cnn",
                                "attack": {"name": "poison_ink", "picture": str(file)}},
    "one_image": lambda file: RESTORED | {
        "task": "restoration", "attack": {"name": "i2i", "goal": {"name": "one_image", "picture": str(file)}}},
    "weights": lambda file: RESTORED | {"task": {"name": "restoration", "weights": str(file)}},
    "victims": lambda file: RESTORED | {
        "task": {"name": "restored_classification", "victims": ["vgg19_bn:4", f"small_cnn:8@{file}"]}},
    "robust": lambda file: RESTORED | {
        "task": {"name": "restored_classification", "robust": [f"small_cnn:8@{file}"]}},
    "detectors": lambda file: RESTORED | {
        "task": {"name": "restored_detection", "victims": [f"tiny_yolo:plain@{file}"]}},
    "surrogate": lambda file: RESTORED | {
        "task": "restored_classification", "attack": {"name": "i2i_classifier", "surrogate": f"small_cnn:8@{file}"}},
    "detecting surrogate": lambda file: RESTORED | {
        "task": "restored_detection", "attack": {"name": "i2i_detector", "surrogate": f"tiny_yolo:plain@{file}"}},
}


def key(form: str, file: Path | str, root: Path | None = None) -> str:
    return Spec(**FORMS[form](file)).key("f", root)


@pytest.mark.parametrize("form", FORMS)
def test_a_key_depends_on_what_a_file_holds_and_not_on_where_it_lies(form: str, tmp_path: Path) -> None:
    one, same, other = drawn(tmp_path / "1", 100), drawn(tmp_path / "2", 100), drawn(tmp_path / "3", 101)
    assert one.read_bytes() == same.read_bytes()
    assert key(form, one) == key(form, same) != key(form, other)


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("baat", "poison_ink", "one_image")])
def test_weights_are_also_found_below_the_data_root(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = drawn(tmp_path / "root" / "weights" / "w.pth", 100)
    assert key(form, "weights/w.pth", tmp_path / "root") == key(form, file)
    with pytest.raises(CannotComplete, match=r"'weights/w\.pth' does not exist"):
        key(form, "weights/w.pth")


def test_scenes_enter_by_their_images(tmp_path: Path) -> None:
    def with_scenes(folder: Path) -> str:
        return Spec(data="toy", model="small_cnn", attack={"name": "refool", "scenes": f"folder:{folder}"}).key("f")

    for name, grey in (("one", 1), ("same", 1), ("other", 2)):
        for label in ("a", "b"):
            for n in range(10):
                drawn(tmp_path / name / label / f"{n}.png", grey)
    assert with_scenes(tmp_path / "one") == with_scenes(tmp_path / "same") != with_scenes(tmp_path / "other")


@pytest.mark.parametrize("value", ["bug", "text:bug"])
def test_pictures_without_a_file_enter_by_their_names(value: str, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = key("baat", value)
    drawn(tmp_path / value, 100)
    assert key("baat", value) == before


def test_what_is_written_after_it_was_hashed_is_not_read(tmp_path: Path) -> None:
    drawing, weights = drawn(tmp_path / "a.png", 100), state(tmp_path / "w.safetensors", 0)
    for form, file in (("baat", drawing), ("victims", weights)):
        key(form, file)
    assert picture(str(drawing), (1, 16, 16)).unique().tolist() == [pytest.approx(100 / 255)]
    assert read_weights(weights)
    drawn(drawing, 101)
    state(weights, 1)
    assert picture(str(drawing), (1, 16, 16)).unique().tolist() == [pytest.approx(100 / 255)]  # kept
    with pytest.raises(CannotComplete, match="written to since"):
        picture(str(drawing), (1, 8, 8))
    os.symlink(weights, tmp_path / "link")
    for path in (weights, tmp_path / "link"):
        with pytest.raises(CannotComplete, match="written to since"):
            read_weights(path)


def test_a_picture_that_was_read_first_enters_keys_as_it_was_read(tmp_path: Path) -> None:
    drawing = drawn(tmp_path / "a.png", 100)
    before = key("baat", drawn(tmp_path / "same.png", 100))
    picture(str(drawing), (1, 16, 16))
    drawn(drawing, 101)
    assert key("baat", drawing) == before


def test_a_file_that_cannot_be_hashed_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotComplete, match="it is a folder"):
        opening.identified(tmp_path)
