"""The tiers of the benchmark are as large as they say, and share cells with the studies that they build on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from sidedoor import registry
from sidedoor.bench.spec import Spec, grid, read, tier_of

FOLDER = Path(__file__).parents[2] / "experiments"


def cells(name: str) -> list[Spec]:
    return grid(read(FOLDER / f"{name}.toml"))


def written(specs: list[Spec]) -> set[str]:
    return {json.dumps(spec.to_json(), sort_keys=True) for spec in specs}


def stages(specs: list[Spec]) -> set[str]:
    return {registry.find(name, "defense").stage for spec in specs for name in spec.defense_names}


@pytest.mark.parametrize("tier", ["ci", "digits", "small", "full"])
def test_a_file_says_its_tier(tier: str) -> None:
    assert tier_of(read(FOLDER / f"bench_{tier}.toml")) == tier


def test_ci_is_a_defence_of_each_stage_against_three_attacks() -> None:
    found = cells("bench_ci")
    assert len(found) == 3 * (1 + 6)
    assert {spec.seed for spec in found} == {0}
    assert len(stages(found)) == 6
    # The rest is of other parameters of the attack, or of other defences.
    assert len(written(found) & written(cells("defenses"))) == 2 * 3


def test_digits_is_eight_attacks_against_all_stages() -> None:
    found = cells("bench_digits")
    defended = Counter(spec.defense_name for spec in found)
    assert len(Counter(spec.attack_name for spec in found)) == 8
    assert len(defended) - 1 == 25
    assert set(defended.values()) == {8 * 3}
    assert len(stages(found)) == 6


def test_small_finds_the_cells_of_the_studies_on_the_common_victims() -> None:
    found = cells("bench_small")
    assert written(cells("common")) <= written(found)
    assert written(cells("repairs_common")) <= written(found)
    defended = Counter(spec.defense_name for spec in found)
    assert len(Counter(spec.attack_name for spec in found)) == 8
    assert len(defended) - 1 == 26
    assert set(defended.values()) == {8 * 3, 8}
    assert len(stages(found)) == 6


def test_full_is_thirty_attacks_against_forty_five_defences() -> None:
    table = read(FOLDER / "bench_full.toml")
    axes, (defenses,) = table["grid"], table["grid"]["defenses"]
    assert [len(set(names)) for names in (axes["attack"], defenses, axes["seed"], axes["data"])] == [30, 45, 3, 2]
    assert len(axes["attack"]) + len(defenses) == 75
    for name in axes["attack"]:
        assert "classification" in registry.find(name, "attack").tasks
    assert {registry.find(name, "defense").stage for name in defenses} == stages(cells("bench_small"))
