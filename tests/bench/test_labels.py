"""Cells are called by what tells them apart."""

from __future__ import annotations

from typing import Any

from sidedoor.bench.labels import Label, labels, names

SPEC: dict[str, Any] = {
    "data": {"name": "digits", "size": 16}, "model": {"name": "small_cnn"}, "attack": {"name": "badnets", "rate": 0.1},
    "defense": None, "recipe": {"lr": 0.05, "epochs": 3}, "seed": 0, "defender_share": 0.05,
}
OTHER_RATE = SPEC | {"attack": {"name": "badnets", "rate": 0.01}}
PRUNED = SPEC | {"defense": {"name": "fine_pruning"}}


def test_labels_name_what_varies_and_nothing_else() -> None:
    clean = SPEC | {"attack": None, "data": {"name": "mnist"}, "defender_share": 0.2}
    assert labels([SPEC, clean]) == [Label("badnets", "none", "digits, defender_share 0.05"),
                                     Label("none", "none", "mnist, defender_share 0.2")]
    assert labels([SPEC, SPEC | {"seed": 1}])[0].setting == ""
    assert labels([SPEC, SPEC | {"recipe": {"lr": 0.05, "epochs": 9}}])[1].setting == "recipe epochs=9"
    assert [label.attack for label in labels([SPEC, OTHER_RATE])] == ["badnets (rate=0.1)", "badnets (rate=0.01)"]


def test_a_cell_is_called_by_what_the_grid_varies() -> None:
    assert names([SPEC, SPEC | {"seed": 1}]) == ["seed 0", "seed 1"]
    assert names([SPEC, PRUNED]) == ["none", "fine_pruning"]
    assert names([SPEC, OTHER_RATE | {"seed": 1}]) == ["badnets (rate=0.1), seed 0", "badnets (rate=0.01), seed 1"]
    assert names([SPEC, SPEC | {"data": {"name": "mnist"}}]) == ["digits", "mnist"]


def test_a_cell_alone_is_called_by_its_attack_and_defence() -> None:
    assert names([PRUNED]) == ["badnets, fine_pruning"]
    assert names([]) == []
