"""Every registered attack takes, and every registered defence does its work against BadNets; the premise first."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from sidedoor import registry
from sidedoor.bench.machine import Machine
from sidedoor.bench.record import Record
from sidedoor.bench.run import run
from sidedoor.bench.spec import Spec
from sidedoor.bench.store import Store
from sidedoor.engine import Recipe

pytestmark = pytest.mark.slow

DIGITS = "digits"
HARD = {"name": "toy", "difficulty": "hard", "classes": 4, "train": 1000}
"""Classes that overlap, so that a model has a use for a trigger beside the labels' own signs."""
ATTACKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "input_aware": (DIGITS, {"mask_epochs": 5, "width": 8, "rate": 0.3, "density": 0.1}),
    "wanet": (DIGITS, {"strength": 2.0, "rate": 0.2}),
    # With clean labels a model heeds the grating only where the classes themselves leave doubt.
    "sig": (HARD, {"rate": 0.8, "delta": 0.25}),
    "tact": (DIGITS, {"rate": 0.5, "cover_rate": 0.1}),
}
DEFENSES: dict[str, tuple[Any, dict[str, Any]]] = {
    # It needs poison that is learned before anything else, so classes that are not too easy and not too hard.
    "abl": (DIGITS, {"isolation_epochs": 10, "finetune_epochs": 15, "unlearn_epochs": 10, "isolation_rate": 0.05}),
    "neural_cleanse": (HARD, {"epochs": 100, "samples": 200}),
}


@functools.cache
def record(folder: Path, attack: str, defense: str | None = None, against: str | None = None) -> Record:
    """A cell on the data of the attack, or of the defence that it stands `against`."""
    data, parameters = ATTACKS.get(attack, (DIGITS, {}))
    data, options = DEFENSES.get(against, (HARD, {})) if against else (data, {})
    spec = Spec(data=data, model="small_cnn", attack={"name": attack, **parameters},
                defense={"name": defense, **options} if defense else None,
                recipe=Recipe(epochs=15), defender_share=0.15, references=2)
    return run(spec, Store(folder), Machine(device="cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("facts")


def named(kind: str) -> list[str]:
    return [entry.name for entry in registry.entries() if entry.kind == kind]


@pytest.mark.parametrize("attack", named("attack"))
def test_every_attack_takes(attack: str, folder: Path) -> None:
    cell = record(folder, attack)
    assert cell.clean_means is not None
    assert cell.clean_means["clean"] > 0.85, "premise: the clean model has learned the task"
    assert cell.clean_means["idle"] < 0.2, "premise: a clean model seldom does what the attacker wants"
    assert cell.attack > cell.clean_means["attack"] + 0.4, "the trigger does more than to the clean sibling"
    assert cell.clean > cell.clean_means["clean"] - 0.1


@pytest.mark.parametrize("defense", named("defense"))
def test_every_defense_does_its_work_against_badnets(defense: str, folder: Path) -> None:
    premise = record(folder, "badnets", against=defense)
    assert premise.attack > 0.9, "premise: the model is backdoored"
    cell = record(folder, "badnets", defense, against=defense)
    stage = registry.load("defense", defense).stage.name
    if stage in ("filter", "input_detector"):
        assert cell.separation is not None
        assert cell.separation.auroc > 0.6
    elif stage == "audit":
        assert cell.audit is not None
        assert cell.audit.above_all, "the backdoored model stands out among clean ones"
        assert cell.audit.finding.suspected in ((0,), ())
    else:
        assert cell.attack < premise.attack - 0.3
        assert cell.clean > premise.clean - 0.2
