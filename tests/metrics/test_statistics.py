"""Every interval and curve against an analytic value or scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sidedoor.metrics.statistics import auroc, operating_point, roc_curve, t_interval, tpr_at, wilson

scores = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30)


@pytest.mark.parametrize(("successes", "n"), [(0, 7), (1, 10), (50, 100), (997, 1000), (7, 7)])
def test_wilson_is_scipys(successes: int, n: int) -> None:
    expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_stays_within_a_share_and_takes_rounded_sums() -> None:
    assert wilson(0, 5)[0] == 0.0
    assert wilson(5, 5)[1] == 1.0
    assert wilson(1000.0003, 1000) == wilson(1000, 1000)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5), (math.nan, 5)])
def test_wilson_refuses_what_is_no_share(successes: float, n: int) -> None:
    with pytest.raises(ValueError, match="0 <= successes <= n"):
        wilson(successes, n)


def test_t_interval_is_scipys() -> None:
    values = [0.91, 0.93, 0.88, 0.95]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert t_interval(values) == pytest.approx((np.mean(values), low, high))


def test_t_interval_of_three_seeds_by_hand() -> None:
    # s = 1, and t(0.975, 2) = 4.302653.
    assert t_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-6)


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    assert t_interval([0.4]) == (0.4, None, None)
    with pytest.raises(ValueError, match="no values"):
        t_interval([])


def test_auroc_of_perfect_inverted_and_blind_detectors() -> None:
    assert auroc([3.0, 4.0], [1.0, 2.0]) == 1.0
    assert auroc([1.0, 2.0], [3.0, 4.0]) == 0.0
    assert auroc([1.0, 1.0], [1.0]) == 0.5
    assert auroc([], [1.0]) is None
    assert auroc([1.0], []) is None
    rng = np.random.default_rng(0)
    assert auroc(rng.normal(size=4000), rng.normal(size=4000)) == pytest.approx(0.5, abs=0.03)


def test_auroc_takes_infinite_scores_and_refuses_nan() -> None:
    assert auroc([np.inf, 1.0], [-np.inf, np.inf]) == pytest.approx((0.5 + 1 + 0 + 1) / 4)
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        auroc([np.nan, 1.0], [0.0])


@given(scores, scores)
def test_auroc_counts_pairs_and_is_the_area_under_the_curve(positive: list[float], negative: list[float]) -> None:
    pairs = np.subtract.outer(positive, negative)
    area = auroc(positive, negative)
    assert area == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    fpr, tpr = roc_curve(positive, negative)
    assert ((tpr[1:] + tpr[:-1]) / 2 * np.diff(fpr)).sum() == pytest.approx(area)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)


def test_roc_curve_by_hand() -> None:
    fpr, tpr = roc_curve([3.0, 1.0], [2.0, 1.0])
    assert fpr.tolist() == [0, 0, 0.5, 1]
    assert tpr.tolist() == [0, 0.5, 0.5, 1]
    with pytest.raises(ValueError, match="0 negatives"):
        roc_curve([1.0], [])


def test_operating_point_by_hand() -> None:
    point = operating_point([98.5, 99.5, 101.0, 2.0], np.arange(90, 100), np.arange(1, 101), 0.05)
    # Of 1..100 the 95 % quantile, 95.05, rounds up to 96.
    assert point == {"threshold": 96.0, "tpr": 0.75, "fpr": 0.3, "too_small": False}
    assert operating_point([1.0], [1.0], np.arange(99), 0.01)["too_small"] is True
    assert operating_point([1.0], [1.0], np.arange(100), 0.01)["too_small"] is False


def test_operating_point_without_calibration_or_with_nothing_to_judge() -> None:
    with pytest.raises(ValueError, match="calibration"):
        operating_point([1.0], [1.0], [], 0.05)
    assert operating_point([], [], [1.0], 0.05) == {"threshold": 1.0, "tpr": None, "fpr": None, "too_small": True}
    assert tpr_at([1.0, 2.0], 1.0) == 0.5


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=300), st.sampled_from([0.01, 0.05, 0.2]))
def test_calibration_never_exceeds_the_rate_asked_for(calibration: list[float], fpr: float) -> None:
    realised = tpr_at(calibration, operating_point([], [], calibration, fpr)["threshold"])
    assert realised is not None
    assert realised <= fpr
