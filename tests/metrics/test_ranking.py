"""Ranks with uncertainty, against published numbers and against what must not matter."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sidedoor.metrics.comparison import signed_rank_p
from sidedoor.metrics.ranking import (
    Field,
    Score,
    Scores,
    against,
    block_ranks,
    critical_difference,
    field,
    friedman,
    mean_ranks,
    not_told_apart,
    ranks,
    standings,
)

# Demšar, JMLR 7 (2006), Table 6: AUC of C4.5 plain, with m, with cf and with both tuned, on 14 data sets. Voting's last
# two are printed alike, but ranked 2 and 3, so that one is a little less here.
DEMSAR = np.array([
    [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.975, 0.9749], [0.957, 0.978, 0.946, 0.970],
])


def of_values(values: np.ndarray, spread: float = 1.0) -> Scores:
    """Methods a, b, ... by a table (blocks, methods) or (blocks, methods, seeds); no two are near each other.

    Args:
        spread: of success rates between methods.
    """
    table = values if values.ndim == 3 else values[:, :, None]
    return {"abcdefgh"[m]: {f"block {b}": {s: Score(float(value), m * spread, 0.5) for s, value in enumerate(seeds)}
                            for b, seeds in enumerate(table[:, m])} for m in range(table.shape[1])}


def test_the_worked_example_of_demsar() -> None:
    mean = mean_ranks(field(of_values(DEMSAR)))
    assert mean == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    found = friedman(mean, 14)
    assert found.chi2 == pytest.approx(9.28, abs=5e-3)
    assert found.f == pytest.approx(3.69, abs=5e-3)
    # F(3, 39) at 0.05 is 2.85: the null hypothesis is rejected.
    assert 0.01 < found.f_p < 0.05
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=5e-3)
    assert critical_difference(4, 14, 0.10) == pytest.approx(2.291 * math.sqrt(20 / 84), abs=2e-3)


@pytest.mark.parametrize(("methods", "blocks", "difference"), [(20, 30, 5.4), (45, 30, 13.4), (45, 60, 9.5),
                                                               (10, 12, 3.9)])
def test_critical_differences_of_a_benchmark(methods: int, blocks: int, difference: float) -> None:
    assert critical_difference(methods, blocks) == pytest.approx(difference, abs=0.06)


def test_friedman_is_scipys_where_nothing_ties() -> None:
    values = np.random.default_rng(0).normal(size=(9, 5))
    found = friedman(mean_ranks(field(of_values(values))), 9)
    expected = stats.friedmanchisquare(*values.T)
    assert (found.chi2, found.chi2_p) == pytest.approx((expected.statistic, expected.pvalue))
    same = friedman(np.array([1.0, 2.0, 3.0]), 7)
    assert (same.f, same.f_p) == (math.inf, 0.0)
    with pytest.raises(ValueError, match="two methods"):
        friedman(np.array([1.0]), 7)


def test_ranks_of_ties_are_means() -> None:
    values = np.array([0.1, 0.9, 0.5, 0.5, 0.9])
    assert ranks(values) == pytest.approx(stats.rankdata(-values))
    near = np.zeros((3, 3), dtype=bool)
    near[0, 1] = near[1, 0] = near[1, 2] = near[2, 1] = True  # the middle one ties with either
    assert ranks(np.array([3.0, 2.0, 1.0]), near) == pytest.approx([1.5, 2.0, 2.5])


def test_methods_tie_below_a_point_in_both_numbers() -> None:
    def pair(attack: float, clean: float) -> list[float]:
        return block_ranks(np.array([[0.9, 0.05, 0.80], [0.8, 0.05 + attack, 0.80 + clean]])).tolist()

    assert pair(0.009, -0.009) == [1.5, 1.5]
    assert pair(0.010, 0.0) == [1.0, 2.0]
    assert pair(0.0, -0.010) == [1.0, 2.0]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.permutations(range(5)))
def test_order_of_blocks_and_scale_of_values_do_not_matter(seed: int, order: list[int]) -> None:
    values = np.random.default_rng(seed).normal(size=(5, 4))
    mean = mean_ranks(field(of_values(values)))
    assert mean_ranks(field(of_values(values[order]))) == pytest.approx(mean)
    assert mean_ranks(field(of_values(np.exp(3 * values) - 7))) == pytest.approx(mean)
    assert mean_ranks(field(of_values(-values))) == pytest.approx(5 - mean)
    assert mean.sum() == pytest.approx(10)


def test_seeds_are_averaged_before_anything_is_ranked() -> None:
    """The first method loses two seeds of three by a little and wins one by far."""
    values = np.array([[[0.9, 0.1, 0.1], [0.2, 0.2, 0.2]]])
    assert mean_ranks(field(of_values(values))) == pytest.approx([1.0, 2.0])


def test_intervals_are_of_blocks_and_contain_the_mean() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(20, 3)) + np.array([2.0, 0.0, 0.0])
    found = standings(field(of_values(values)))
    by_block = np.stack([stats.rankdata(-row) for row in values])
    for name, column in zip("abc", by_block.T, strict=True):
        half = (found[name].high - found[name].low) / 2
        assert half == pytest.approx(1.96 * column.std() / 20**0.5, rel=0.1)
        assert found[name].low <= found[name].rank <= found[name].high
    assert sum(each.first for each in found.values()) == pytest.approx(1)
    assert found["a"].first > 0.95


def test_seeds_are_drawn_together_for_all_methods() -> None:
    """One victim is hard and one is easy, for both methods alike: the better one is first in every draw."""
    values = np.array([[[0.1, 0.9], [0.0, 0.8]]])
    found = standings(field(of_values(values)))
    assert found["a"] == (1.0, 1.0, 1.0, 1.0)
    crossed = standings(field(of_values(np.array([[[0.1, 0.9], [0.2, 0.6]]]))))
    # The mean is 0.5 against 0.4; twice the first seed, a quarter of all draws, turns it round.
    assert crossed["a"].first == pytest.approx(0.75, abs=0.02)


def test_equal_methods_share_the_first_rank() -> None:
    found = standings(field(of_values(np.zeros((4, 2)))))
    assert [each.first for each in found.values()] == [0.5, 0.5]


def test_a_method_that_misses_more_than_a_fifth_is_named_and_left_out() -> None:
    full = {f"block {b}": {0: Score(0.5, 0.1, 0.9)} for b in range(10)}
    eight = dict(itertools.islice(full.items(), 8))
    seven = dict(itertools.islice(full.items(), 7))
    found = field({"full": full, "eight": eight, "seven": seven})
    assert found.methods == ("full", "eight")
    assert found.unranked == {"seven": "it has no result in 3 of 10 blocks"}
    assert found.blocks == tuple(f"block {b}" for b in range(8))
    assert found.left_out == ("block 8", "block 9")


def test_a_block_has_the_seeds_that_all_methods_have() -> None:
    score = Score(0.5, 0.1, 0.9)
    found = field({"a": {"x": {0: score, 1: score, 2: score}}, "b": {"x": {1: score, 2: score, 5: score}}})
    assert found.seeds == (2, 2)
    apart = field({"a": {"x": {0: score}}, "b": {"x": {1: score}}})
    assert (apart.blocks, apart.left_out) == ((), ("x",))
    with pytest.raises(ValueError, match="at least one block"):
        standings(apart)
    assert field({}) == Field((), (), (), {}, ())


def test_runs_that_are_not_told_apart() -> None:
    mean = np.array([3.143, 2.000, 2.893, 1.964])
    assert not_told_apart(mean, 1.25) == [(0, 3)]
    assert not_told_apart(mean, 1.0) == [(0, 2), (2, 3)]
    assert not_told_apart(mean, 0.1) == [(0, 1)]
    assert not_told_apart(np.array([1.0, 2.0]), 1.0) == []


def test_signed_ranks_are_exact_with_ties_and_zeros() -> None:
    first = [[1.0], [2.0], [2.0], [-1.0], [0.0], [4.0], [5.0]]
    zero = [[0.0]] * 7
    differences = np.array([value for (value,) in first])
    rank = stats.rankdata(np.abs(differences))
    seen = [sum(r for r, d, sign in zip(rank, differences, signs, strict=True) if d and sign)
            for signs in itertools.product((0, 1), repeat=7)]
    total = rank[differences > 0].sum()
    share = min(np.mean(np.array(seen) >= total), np.mean(np.array(seen) <= total))
    assert signed_rank_p(first, zero) == pytest.approx(2 * share)
    assert signed_rank_p(zero, first) == pytest.approx(2 * share)


def test_each_method_is_compared_with_one_baseline_and_holm_counts_them() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(8, 3))
    values[:, 1] = values[:, 0] + 1 + rng.random(8)
    found = against(of_values(values), "a")
    assert set(found) == {"b", "c"}
    assert found["b"].p == pytest.approx(2 / 2**8)
    assert found["b"].adjusted == pytest.approx(4 / 2**8)
    assert found["b"].difference == pytest.approx(np.mean(values[:, 1] - values[:, 0]))
    assert found["c"].p == pytest.approx(stats.wilcoxon(values[:, 2] - values[:, 0]).pvalue)
    assert found["c"].adjusted == pytest.approx(max(found["c"].p, found["b"].adjusted))


def test_a_test_of_five_blocks_is_refused_with_the_reason() -> None:
    scores = of_values(np.random.default_rng(0).normal(size=(6, 2)))
    assert against(scores, "a")["b"].reason == ""
    del scores["b"]["block 0"]  # type: ignore[attr-defined]
    found = against(scores, "a")["b"]
    assert (found.blocks, found.p, found.adjusted) == (5, None, None)
    assert "5 blocks in common; a test takes 6" in found.reason
    assert against({"a": {}, "b": {}}, "a")["b"].reason == "the two have no block in common"
