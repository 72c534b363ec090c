"""Parts of a sweep: together the whole, each cell once, and no model in two."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidedoor.bench.executors.base import Cell
from sidedoor.bench.machine import Machine
from sidedoor.bench.plan import planned
from sidedoor.bench.shards import Shard, by_model, shard
from sidedoor.bench.spec import Spec
from sidedoor.errors import ConfigError

SPEC = Spec(data="toy", model="small_cnn")
MODELS = st.lists(st.integers(0, 2**64 - 1), max_size=40)


def cells(models: list[int]) -> list[Cell]:
    """Three cells of each model."""
    return [Cell(SPEC, f"{n}-{k}", f"{model:016x}", frozenset()) for n, model in enumerate(models) for k in range(3)]


@given(MODELS, st.integers(1, 50))
def test_all_parts_together_are_the_sweep_and_a_model_is_in_one(models: list[int], count: int) -> None:
    whole = cells(models)
    parts = [Shard(number, count).of(whole) for number in range(1, count + 1)]
    assert sorted(cell.key for part in parts for cell in part) == sorted(cell.key for cell in whole)
    for part in parts:
        assert part == [cell for cell in whole if cell in part]  # in the order of the sweep
    homes = [{cell.model for cell in part} for part in parts]
    assert sum(map(len, homes)) == len(set.union(*homes))


def test_models_are_spread_over_parts() -> None:
    whole = cells([hash((n, "model")) % 2**64 for n in range(400)])
    sizes = [len(Shard(number, 4).of(whole)) for number in range(1, 5)]
    assert max(sizes) < 1.5 * min(sizes)


def test_parts_of_a_real_sweep_keep_defences_beside_their_attack(tiny: Callable[..., Spec]) -> None:
    specs = [tiny(seed=seed, defense=defense) for seed in range(3) for defense in (None, "strip", "fine_pruning")]
    whole = planned(specs, Machine(device="cpu"))
    for number in (1, 2):
        part = Shard(number, 2).of(whole)
        assert len(part) % 3 == 0
        assert all(len([cell for cell in part if cell.spec.seed == seed]) in (0, 3) for seed in range(3))


@given(MODELS)
def test_jobs_are_one_for_each_model(models: list[int]) -> None:
    whole = cells(models)
    parts = by_model(whole)
    assert sorted(cell.key for part in parts for cell in part) == sorted(cell.key for cell in whole)
    assert all(len({cell.model for cell in part}) == 1 for part in parts)
    assert len(parts) == len(set(models))


def test_a_part_is_written_by_number_and_count() -> None:
    assert shard("2/8") == Shard(2, 8)
    assert str(Shard(2, 8)) == "2/8"
    assert shard("1/1").of(cells([5, 6])) == cells([5, 6])


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "a/b", "1", "1/2/3", "-1/2", "1.0/2", "", "1/ 2", "٣/4"])
def test_what_is_no_part_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected I/N with I from 1 to N: 1/8, 2/8"):
        shard(text)
