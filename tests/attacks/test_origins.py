"""Every attack says where the default of each of its parameters comes from, and what threat model it has."""

from __future__ import annotations

from dataclasses import fields

import pytest

from sidedoor import registry
from sidedoor.attacks.base import Attack, CleanLabelAttack, PoisoningAttack, TrainingAttack, WeightAttack
from sidedoor.backdoor.base import Access

BUILT_IN = [(entry.kind, entry.name) for entry in registry.entries()
            if entry.kind in ("attack", "trigger_design") and entry.origin == "sidedoor"]
ATTACKS = [name for kind, name in BUILT_IN if kind == "attack"]


def test_there_are_many_attacks_and_designs() -> None:
    assert len(ATTACKS) >= 30
    assert len(BUILT_IN) - len(ATTACKS) >= 9


@pytest.mark.parametrize(("kind", "name"), BUILT_IN)
def test_every_default_has_an_origin(kind: str, name: str) -> None:
    method = registry.load(kind, name)
    assert set(method.origins) == {field.name for field in fields(method)} - {"goal"}
    for parameter, origin in method.origins.items():
        source, _, where = origin.partition(": ")
        assert source in ("paper", "release", "ours"), f"{name}.{parameter}: {origin}"
        assert where or source == "ours", f"{name}.{parameter}: {origin} names no place"


@pytest.mark.parametrize(("kind", "name"), BUILT_IN)
def test_quick_parameters_are_parameters_with_other_values_than_the_defaults(kind: str, name: str) -> None:
    method = registry.load(kind, name)
    plain, quick = method(), method(**method.quick)
    assert all(getattr(plain, key) != getattr(quick, key) for key in method.quick)


@pytest.mark.parametrize(("base", "access"), [
    (PoisoningAttack, Access.DATA), (CleanLabelAttack, Access.DATA), (TrainingAttack, Access.TRAINING),
    (WeightAttack, Access.WEIGHTS)])
def test_the_base_class_declares_the_threat_model(base: type[Attack], access: Access) -> None:
    found = [attack for attack in (registry.load("attack", name) for name in ATTACKS) if issubclass(attack, base)]
    assert len(found) >= 2
    assert {attack.access for attack in found} == {access}


def test_a_renamed_attack_keeps_its_name_in_keys() -> None:
    assert registry.load("attack", "subnet_replacement").key_name == "latent"
