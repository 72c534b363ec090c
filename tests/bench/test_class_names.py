"""A class given by its name is the class given by its number, in every place and in keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidedoor import registry
from sidedoor.bench.case import classes_of, load_data
from sidedoor.bench.class_names import said
from sidedoor.bench.machine import Machine
from sidedoor.bench.spec import cells, grid
from sidedoor.errors import ConfigError

NAMES = ("cat", "dog", "owl", "3", "owl")


def archive(folder: Path, labels: list[int]) -> str:
    pixels = np.arange(len(labels) * 64, dtype=np.uint8).reshape(len(labels), 8, 8)
    np.savez(folder / "set.npz", train_images=pixels, train_labels=labels, test_images=pixels, test_labels=labels,
             classes=np.array(NAMES))
    return f"npz:{folder / 'set.npz'}"


@pytest.mark.parametrize(("named", "numbers"), [
    ({"attack": {"name": "badnets", "goal": {"name": "all_to_one", "target_class": "dog"}}},
     {"attack": {"name": "badnets", "goal": {"name": "all_to_one", "target_class": 1}}}),
    ({"attack": {"name": "tact", "source_classes": ["3", "dog"]}},
     {"attack": {"name": "tact", "source_classes": [3, 1]}}),
], ids=str)
def test_names_stand_for_numbers(named: dict[str, Any], numbers: dict[str, Any], tmp_path: Path) -> None:
    common = {"data": archive(tmp_path, [0, 1, 2, 3, 4]), "model": "small_cnn"}
    one, other = cells(common | named, classes_of(Machine())), cells(common | numbers)
    assert one == other
    assert one[0].key("x") == other[0].key("x")


def test_a_grid_may_have_names(tmp_path: Path) -> None:
    table = {"data": archive(tmp_path, [0, 1, 2, 3, 4]), "model": "small_cnn", "attack": "badnets",
             "grid": {"attack.goal": [{"name": "all_to_one", "target_class": name} for name in ("dog", "cat", 2)]}}
    assert [s.attack["goal"]["target_class"] for s in grid(table, classes_of(Machine())) if s.attack] == [1, 0, 2]


@pytest.mark.parametrize(("name", "message"), [
    ("cow", "unknown class 'cow'; did you mean owl"), ("owl", "2 classes are called 'owl'; give the number of one")])
def test_a_name_that_is_of_no_class_or_of_several_is_refused(tmp_path: Path, name: str, message: str) -> None:
    attack = {"name": "badnets", "goal": {"name": "all_to_one", "target_class": name}}
    table = {"data": archive(tmp_path, [0, 1, 2, 3, 4]), "model": "small_cnn", "attack": attack}
    with pytest.raises(ConfigError, match=message):
        cells(table, classes_of(Machine()))
    with pytest.raises(ConfigError, match=f"target_class = '{name}' given; expected int"):
        cells(table)


def test_data_are_loaded_for_names_only() -> None:
    def classes(_: object) -> tuple[str, ...]:
        raise AssertionError("loaded")

    assert cells({"data": "toy", "model": "small_cnn", "attack": "badnets"}, classes)


def test_a_target_class_without_training_samples_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    attack = {"name": "badnets", "goal": {"name": "all_to_one", "target_class": 2}}
    (spec,) = cells({"data": archive(tmp_path, [0, 0, 1, 1, 3, 3, 4, 4]), "model": "small_cnn", "attack": attack})
    with pytest.raises(ConfigError, match=r"target_class = 2 given; the training data have no sample of class 2"):
        load_data(spec, Machine())


def test_what_is_said_of_a_target_has_its_name() -> None:
    attack = registry.make("attack", "badnets")
    assert said(attack, NAMES) == ["AllToOne.target_class: 0 (cat)"]
    assert said(attack, ("0", "1")) == []
