"""Cells that share networks of the shelf are known as such before they are run, and only those."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidedoor import registry
from sidedoor.attacks.base import Attack
from sidedoor.attacks.strategies.base import Strategy
from sidedoor.bench.case import load_data
from sidedoor.bench.machine import Machine
from sidedoor.bench.plan import planned
from sidedoor.bench.shared import mark, of_attack, of_cell, of_defenses, of_task
from sidedoor.bench.spec import Spec
from sidedoor.bench.store import Store
from sidedoor.bench.sweep import sweep

CPU = Machine(device="cpu")
ATTACKS, DEFENSES = ([entry.name for entry in registry.entries() if entry.kind == kind]
                     for kind in ("attack", "defense"))
INK = {"name": "poison_ink", "rate": 0.2, "size": "tiny", "epochs": 1}


def source(cls: Any) -> str:
    return inspect.getsource(sys.modules[cls.__module__])


@pytest.mark.parametrize("name", DEFENSES)
def test_a_defence_says_that_it_inspects_what_others_do(name: str) -> None:
    cls = registry.load("defense", name)
    assert cls.inspects == ("inspection_model(" in source(cls))


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_says_that_it_keeps_networks(name: str) -> None:
    cls = registry.load("attack", name)
    # Strategies hand on what the attack that they are given says.
    keeps = "train_or_load(" in source(cls) or "artefact(" in source(cls) or issubclass(cls, Strategy)
    assert (cls.on_shelf is not Attack.on_shelf) == keeps


@pytest.mark.parametrize(("changes", "same"), [
    ({"rate": 0.05}, True), ({"goal": {"name": "all_to_one", "target_class": 1}}, True), ({"epochs": 2}, False),
    ({"threshold": 30.0}, False), ({"size": "small"}, False),
])
def test_attacks_share_what_they_derive_triggers_with(tiny: Callable[..., Spec], changes: dict[str, Any],
                                                      same: bool) -> None:
    one, other = tiny(attack=INK), tiny(attack=INK | changes)
    assert (of_attack(one, "data") == of_attack(other, "data")) == same
    assert of_attack(one, "data") not in (None, of_attack(one, "other data"))


def test_strategies_share_the_networks_of_the_attack_that_they_are_given(tiny: Callable[..., Spec]) -> None:
    plain, ready = of_attack(tiny(attack=INK), "data"), INK | {"epochs": 2}
    for strategy in ("physical", "per_batch", "clean_label"):
        assert of_attack(tiny(attack={"name": strategy, "attack": INK}), "data") == plain
        assert of_attack(tiny(attack={"name": strategy, "attack": ready}), "data") not in (None, plain)
        assert of_attack(tiny(attack={"name": strategy}), "data") is None


def test_a_seed_has_its_own_networks_unless_they_have_one(tiny: Callable[..., Spec]) -> None:
    own = [of_attack(tiny(attack=INK, seed=seed), "data") for seed in (0, 1)]
    fixed = [of_attack(tiny(attack=INK | {"network_seed": 3}, seed=seed), "data") for seed in (0, 1)]
    assert own[0] != own[1]
    assert fixed[0] == fixed[1]


def test_filters_share_by_model_and_audits_by_data(tiny: Callable[..., Spec]) -> None:
    def names(defense: Any, planted: str = "m", **changes: Any) -> frozenset[str]:
        return of_defenses(tiny(defense=defense, **changes), "data", planted)

    assert names("spectral_signatures") == names("scan_filter") != names("scan_filter", "other")
    assert names("ulp") == names("mntd", "other") != names("ulp", seed=1)
    assert len(names(["spectral_signatures", "scan_filter", "ulp"])) == 2
    assert names("strip") == names(None) == names("fine_pruning") == frozenset()


def test_tasks_that_train_networks_share_them(tiny: Callable[..., Spec]) -> None:
    assert of_task(tiny(), "data") is None
    specs = [tiny(model="dncnn", attack=None, task={"name": "restored_classification", "victims": [victim]}, seed=seed)
             for victim, seed in (("small_cnn:4", 0), ("small_cnn:8", 0), ("small_cnn:4", 1))]
    names = [of_task(spec, "data") for spec in specs]
    assert None not in names
    assert len(set(names)) == 3
    assert of_task(replace(specs[0], model={"name": "dncnn", "width": 4}), "data") == names[0]


def test_what_a_cell_has_made_is_marked_and_known_in_its_plan(tiny: Callable[..., Spec], tmp_path: Path) -> None:
    store = Store(tmp_path)
    spec = tiny(attack=INK, defense="spectral_signatures", data={"name": "toy", "train": 100, "test": 40})
    (cell,) = planned([spec], CPU)
    assert len(cell.shares) == 2
    assert cell.shares == of_cell(spec, load_data(spec, CPU)[1], cell.model)
    (record,) = sweep([spec], store, CPU, workers=0)
    assert record.scored
    assert {file.stem for file in store.shelf.glob("*.made")} == cell.shares
    before = {file: file.stat().st_mtime_ns for file in store.shelf.glob("*.made")}
    mark(store, *cell.shares, None)
    assert {file: file.stat().st_mtime_ns for file in store.shelf.glob("*.made")} == before
