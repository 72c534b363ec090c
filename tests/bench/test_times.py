"""How long a cell takes is known from the records that are most like it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sidedoor.bench.record import Record
from sidedoor.bench.times import Time, Times, own_seconds

SPEC: dict[str, Any] = {
    "data": {"name": "digits"}, "model": {"name": "small_cnn", "width": 4}, "attack": {"name": "badnets", "rate": 0.1},
    "defense": None, "surrogate": None, "task": {"name": "classification"}, "recipe": {"epochs": 3}, "seed": 0,
    "train_samples": 0, "test_samples": 0, "references": 2, "assumed_rate": 0.1}


def spec(defense: str | None = None, **changed: Any) -> dict[str, Any]:
    return SPEC | {"defense": {"name": defense} if defense else None} | changed


def record(key: str, seconds: float, told: dict[str, Any], *, defense: float = 0.0, attack: float = 100.0,
           planted: str = "a") -> Record:
    return Record(key=key, planted=planted, spec=told, status="done", seconds=seconds, clean_key="c", device="cpu",
                  timing={"attack": attack, "clean": 40.0, "defense": defense})


@pytest.mark.parametrize(("seconds", "own"), [
    (12.0, 12.0),  # nothing was trained
    (62.0, 22.0),  # the clean sibling
    (125.0, 25.0),  # the model
    (160.0, 20.0),  # both
])
def test_what_a_run_trained_is_not_its_own_time(seconds: float, own: float) -> None:
    assert own_seconds(record("k", seconds, spec("strip"), defense=10.0)) == pytest.approx(own)


def test_the_defence_is_its_own_time_however_long_the_trainings_took() -> None:
    assert own_seconds(record("k", 150.0, spec("strip"), defense=145.0)) == pytest.approx(150.0)


def test_a_model_without_attack_is_trained_once() -> None:
    told = record("k", 150.0, spec(attack=None), attack=40.0)
    assert own_seconds(told) == pytest.approx(110.0)


def test_the_median_of_the_nearest_records_counts() -> None:
    found = Times.of([
        *(record(f"s{n}", s, spec("strip", seed=n)) for n, s in enumerate((1.0, 2.0, 30.0))),
        record("p", 7.0, spec("strip", attack={"name": "badnets", "rate": 0.2})),
        record("o", 9.0, spec("strip", attack={"name": "blended"})),
        record("d", 11.0, spec("jpeg")),
    ], "cpu")
    assert found.records == 6
    assert found.cell(spec("strip", seed=7)) == Time(2.0, 0)
    assert found.cell(spec("strip", attack={"name": "badnets", "rate": 0.3})) == Time(4.5, 1)
    assert found.cell(spec("strip", attack={"name": "wanet"})) == Time(7.0, 2)
    assert found.cell(spec("strip", attack=None)) is None
    assert found.cell(spec("teco")) is None
    assert found.cell(spec("strip", data={"name": "mnist"})) is None
    assert found.cell(spec("strip", model={"name": "small_cnn", "width": 8})) is None


def test_a_model_counts_once_however_many_cells_it_has() -> None:
    found = Times.of([record("1", 9.0, spec("strip"), attack=10.0, planted="a"),
                      record("2", 9.0, spec("jpeg"), attack=10.0, planted="a"),
                      record("3", 9.0, spec("teco"), attack=10.0, planted="a"),
                      record("4", 9.0, spec("jpeg", seed=1), attack=50.0, planted="b")], "cpu")
    assert found.training(spec(seed=5)) == Time(30.0, 0)
    assert found.training(spec(recipe={"epochs": 9})) == Time(30.0, 1)
    assert found.training(spec(attack={"name": "blended"})) is None
    assert found.training(spec(attack=None)) == Time(40.0, 0)


def test_other_devices_and_cells_without_numbers_do_not_count() -> None:
    told = record("1", 9.0, spec("strip"))
    for other in (replace(told, device="cuda:0"), replace(told, status="error")):
        assert Times.of([other], "cpu").records == 0
    assert Times.of([replace(told, status="failed")], "cpu").cell(spec("strip")) == Time(9.0, 0)
    assert Times.of([replace(told, device="cuda:1")], "cuda").cell(spec("strip")) == Time(9.0, 0)
