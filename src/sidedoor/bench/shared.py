"""Which networks of the shelf cells share, so that a queue can start one cell that makes them and not two.

What a network is called on the shelf is known to what makes it alone. So cells are told apart by what decides their
networks, and a mark says that these are there.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sidedoor import registry
from sidedoor.bench.spec import Spec
from sidedoor.bench.store import Store
from sidedoor.tasks.task import Task


def of_task(spec: Spec, fingerprint: str) -> str | None:
    """The name of what the task trains before anything else, such as judges of restored images; None for nothing.

    Args:
        fingerprint: of the data.
    """
    trains = registry.load("task", spec.task["name"]).setup is not Task.setup
    return _named("task", [*_data(spec, fingerprint), spec.seed, spec.task]) if trains else None


def of_attack(spec: Spec, fingerprint: str) -> str | None:
    """The name of what the attack derives its triggers with, such as networks that hide a message; None for nothing."""
    attack = spec.make_attack()
    deciding = attack.on_shelf(spec.seed) if attack else None
    return None if deciding is None else _named("attack", [*_data(spec, fingerprint), deciding])


def of_defenses(spec: Spec, fingerprint: str, planted: str) -> frozenset[str]:
    """The names of what the defences make for others of their kind: a model of the poisoned data, shadow models.

    Args:
        planted: the key of the trained model.
    """
    found = set()
    for defense in spec.make_defenses():
        if defense.inspects:
            found.add(_named("inspection", [planted]))
        if defense.needs.shadows:
            found.add(_named("shadows", [*_data(spec, fingerprint), spec.seed, spec.model, spec.to_json()["recipe"],
                                         list(spec.augment)]))
    return frozenset(found)


def of_cell(spec: Spec, fingerprint: str, planted: str) -> frozenset[str]:
    """All names of a cell."""
    found = {of_task(spec, fingerprint), of_attack(spec, fingerprint)} | of_defenses(spec, fingerprint, planted)
    return frozenset(name for name in found if name)


def mark(store: Store, *names: str | None) -> None:
    """Say that networks are there."""
    for name in names:
        if name and not store.mark(name).exists():
            store.mark(name).parent.mkdir(parents=True, exist_ok=True)
            store.mark(name).touch()


def _data(spec: Spec, fingerprint: str) -> list[Any]:
    """What decides the training data."""
    return [fingerprint, spec.defender_share, spec.defender_seed]


def _named(kind: str, deciding: list[Any]) -> str:
    text = json.dumps(deciding, sort_keys=True)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
