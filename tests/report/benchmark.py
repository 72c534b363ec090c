"""Records of a small benchmark: attacks by defences by seeds, at numbers that can be checked by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fabricated import make_record

from sidedoor.bench.record import Record

BEFORE = {"clean": 0.9, "attack": 1.0, "recovered": 0.0, "idle": 0.0}
Left = Callable[[int, int], float]
"""The success rate that a defence leaves, by the numbers of attack and seed."""


def attack_of(number: int) -> dict[str, Any]:
    return {"name": "badnets", "rate": 0.1, "size": 2 + number, "goal": {"name": "all_to_one", "target_class": 0}}


def cell(number: int, seed: int, defense: Any = None, **values: Any) -> Record:
    """A cell of the attack of a number; after a defence, half of what fails is recovered unless told otherwise."""
    name = defense if isinstance(defense, str) else defense["name"] if defense else "none"
    record = make_record(f"{name}-{number}-{seed}", seed, undefended=BEFORE if defense else None, attack=1.0,
                         recovered=0.0, timing={"defense": 2.0}) if not values else \
        make_record(f"{name}-{number}-{seed}", seed, **{"undefended": BEFORE if defense else None, "attack": 1.0,
                                                        "recovered": 0.0, "timing": {"defense": 2.0}} | values)
    reference = {"name": defense} if isinstance(defense, str) else defense
    record.spec.update(attack=attack_of(number), defense=reference)
    return record


def benchmark(defenses: dict[str, Left], attacks: int = 6, seeds: Sequence[int] = (0, 1, 2)) -> list[Record]:
    """Every attack undefended and with each defence, which recovers all that no longer succeeds."""
    found = [cell(number, seed) for number in range(attacks) for seed in seeds]
    for name, left in defenses.items():
        found += [cell(number, seed, name, attack=left(number, seed), recovered=1 - left(number, seed))
                  for number in range(attacks) for seed in seeds]
    return found
