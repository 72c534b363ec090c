"""The formula of risk: what it must keep, for any ingredients, and numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sidedoor.metrics.risk import (
    IMPACT,
    LIKELIHOOD,
    Weights,
    access_score,
    agreement,
    budget_score,
    impact,
    likelihood,
    risk,
    sensitivity,
    stealth_score,
    transport_score,
)

PLAIN = Weights()
SHARES = st.floats(0, 1)
PARTS = st.fixed_dictionaries(dict.fromkeys((*LIKELIHOOD, *IMPACT), SHARES))
NONE = np.array([np.nan])


def of(works: float, parts: dict[str, float]) -> float:
    return float(risk(np.array([works]), {name: np.array([value]) for name, value in parts.items()}, PLAIN)[0])


@settings(max_examples=20, deadline=None)
@given(PARTS)
def test_an_attack_that_never_works_has_risk_1(parts: dict[str, float]) -> None:
    assert of(0.0, parts) == 1


def test_the_ends_and_a_case_by_hand() -> None:
    assert of(1.0, dict.fromkeys((*LIKELIHOOD, *IMPACT), 1.0)) == pytest.approx(25)
    assert of(1.0, dict.fromkeys((*LIKELIHOOD, *IMPACT), 0.0)) == pytest.approx(1)
    parts = {"access": 0.9, "budget": 0.5, "stealth": 0.6, "transport": 0.8, "stages": 0.4, "least": 0.1, "target": 1.0}
    arrays, half = {name: np.array([value]) for name, value in parts.items()}, np.array([0.5])
    assert likelihood(half, arrays, PLAIN.likelihood) == pytest.approx([1 + 4 * 0.5 * 0.7])
    assert impact(half, arrays, PLAIN.impact) == pytest.approx([1 + 4 * 0.5 * (0.2 + 0.03 + 0.2)])
    # Weights are of any scale.
    larger = {name: 10 * value for name, value in PLAIN.impact.items()}
    assert impact(half, arrays, larger) == pytest.approx([1 + 4 * 0.5 * 0.43])


@settings(max_examples=40, deadline=None)
@given(PARTS, SHARES, st.sampled_from(["works", *LIKELIHOOD, *IMPACT]), SHARES)
def test_it_is_monotone_in_every_ingredient(parts: dict[str, float], works: float, name: str, more: float) -> None:
    if name == "works":
        low, high = sorted((works, more))
        assert of(low, parts) <= of(high, parts) + 1e-12
    else:
        low, high = sorted((parts[name], more))
        assert of(works, parts | {name: low}) <= of(works, parts | {name: high}) + 1e-12


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-5, 0.5))
def test_twice_the_budget_is_never_more_likely(rate: float) -> None:
    once, twice = budget_score(np.array([rate, 2 * rate]))
    assert twice <= once


@pytest.mark.parametrize(("rate", "score"), [(0.001, 1.0), (0.01, 1.0), (0.03, 1 - np.log10(3) / 2), (0.1, 0.5),
                                             (1.0, 0.0), (np.inf, 0.0)])
def test_a_budget_by_hand(rate: float, score: float) -> None:
    assert budget_score(np.array([rate])) == pytest.approx([score])


@pytest.mark.parametrize(("facts", "score"), [
    (("data", True, False, False), 1.0), (("data", False, False, False), 0.9), (("data", True, True, False), 0.8),
    (("data", False, True, True), 0.5), (("training", False, True, False), 0.5),
    (("training", False, False, True), 0.3), (("weights", True, False, False), 0.4)])
def test_access_by_hand(facts: tuple[str, bool, bool, bool], score: float) -> None:
    assert access_score(*facts, PLAIN) == pytest.approx(score)


def test_stealth_and_transport_by_hand() -> None:
    assert stealth_score(np.array([20.0]), np.array([0.8]), np.array([0.3])) == pytest.approx([(0.5 + 0.8 + 0.7) / 3])
    assert stealth_score(np.array([100.0]), NONE, NONE) == pytest.approx([1.0])
    assert stealth_score(NONE, NONE, NONE) == [0.0]
    assert transport_score(np.array([0.8, 0.5, 0.0]), np.array([0.2, 0.6, 0.1])) == pytest.approx([0.25, 1.0, 0.0])


def test_what_means_nothing_is_left_out_of_the_mean() -> None:
    parts = {"access": np.array([0.5, 0.5]), "budget": np.array([np.nan, 0.0]), "stealth": np.array([0.8, 0.8]),
             "transport": np.array([0.8, 0.8])}
    assert likelihood(np.ones(2), parts, PLAIN.likelihood) == pytest.approx([1 + 4 * 0.7, 1 + 4 * 2.1 / 4])


def test_bands_begin_at_their_bounds() -> None:
    assert [PLAIN.band(value) for value in (1, 5.99, 6, 11.99, 12, 17.99, 18, 25)] == [
        "low", "low", "medium", "medium", "high", "high", "critical", "critical"]


def test_agreement_is_kendalls_tau_b() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        first, second = rng.integers(0, 5, 12).astype(float), rng.integers(0, 5, 12).astype(float)
        assert agreement(first, second) == pytest.approx(stats.kendalltau(first, second).statistic)
    assert agreement(np.ones(3), np.arange(3.0)) == 0


def test_weights_move_the_order_only_where_attacks_differ_in_kind() -> None:
    same = {name: np.array([0.1, 0.5, 0.9]) for name in (*LIKELIHOOD, *IMPACT)}
    found = sensitivity(np.ones(3), same, PLAIN)
    assert found is not None
    assert found[:3] == (1.0, 1.0, 1.0)
    assert set(found.tornado.values()) == {(1.0, 1.0)}
    # Two attacks that differ in two ingredients, in opposite ways: without the one weight the order turns.
    turned = same | {name: np.array([0.5, 0.5]) for name in same}
    turned |= {"access": np.array([0.9, 0.3]), "stealth": np.array([0.4, 0.8])}
    crossed = sensitivity(np.ones(2), turned, PLAIN)
    assert crossed is not None
    assert crossed.tornado["likelihood access"] == (-1.0, 1.0)
    assert crossed.tornado["likelihood stealth"] == (1.0, -1.0)
    assert crossed.least == -1
    assert sensitivity(np.ones(2), {name: np.full(2, 0.5) for name in same}, PLAIN) is None
