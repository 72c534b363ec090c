"""Confidence intervals, ROC curves and operating points of plain numbers, for the evaluation and the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

Numbers = Sequence[float] | npt.NDArray[Any]


def wilson(successes: float, n: float) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share; `successes` may be a sum of scores in [0, 1], `n` an effective number.

    Raises:
        ValueError: there are no trials, or more successes than trials.
    """
    # A float32 sum of scores may exceed its count by rounding.
    if n < 1 or not 0 <= successes <= n * (1 + 1e-6):
        raise ValueError(f"a share needs 0 <= successes <= n and n >= 1; got {successes} of {n}")
    successes = min(successes, n)
    z = float(special.ndtri(0.975))
    share, shrink = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the bound is exactly 0 or 1; floating point would miss it by an ulp.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def t_interval(values: Numbers) -> tuple[float, float | None, float | None]:
    """Mean and 95 % Student interval of independent values, seeds for instance; one value has no interval.

    Raises:
        ValueError: there are no values.
    """
    given = np.asarray(values, dtype=np.float64)
    if given.size == 0:
        raise ValueError("the mean of no values was asked for")
    mean = float(given.mean())
    if given.size == 1:
        return mean, None, None
    half = float(special.stdtrit(given.size - 1, 0.975) * given.std(ddof=1) / math.sqrt(given.size))
    return mean, mean - half, mean + half


def auroc(positive: Numbers, negative: Numbers) -> float | None:
    """The probability that a positive scores above a negative, ties counting one half; None where either is empty."""
    pos, neg = _scores(positive), _scores(negative)
    if pos.size == 0 or neg.size == 0:
        return None
    from scipy.stats import rankdata  # as long to import as half of torch, and few cells need it

    ranks = rankdata(np.concatenate([pos, neg]))[: pos.size]
    return float((ranks.sum() - pos.size * (pos.size + 1) / 2) / (pos.size * neg.size))


def roc_curve(positive: Numbers, negative: Numbers) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """False and true positive rates of the rule "score >= t", for t falling from above all scores to the lowest.

    Raises:
        ValueError: there are no positives or no negatives.
    """
    pos, neg = np.sort(_scores(positive)), np.sort(_scores(negative))
    if pos.size == 0 or neg.size == 0:
        raise ValueError(f"a ROC curve needs both kinds; got {pos.size} positives and {neg.size} negatives")
    thresholds = np.unique(np.concatenate([pos, neg]))[::-1]
    fpr = 1 - np.searchsorted(neg, thresholds, side="left") / neg.size
    tpr = 1 - np.searchsorted(pos, thresholds, side="left") / pos.size
    return np.concatenate([[0.0], fpr]), np.concatenate([[0.0], tpr])


def tpr_at(scores: Numbers, threshold: float) -> float | None:
    """The share of scores strictly above the threshold; None where there are none."""
    given = _scores(scores)
    return float((given > threshold).mean()) if given.size else None


def operating_point(positive: Numbers, negative: Numbers, calibration: Numbers, fpr: float) -> dict[str, Any]:
    """The rates of a detector whose threshold was set on the defender's clean scores alone.

    Args:
        calibration: scores of the defender's clean split.
        fpr: the rate of false alarms the defender accepts, in (0, 1).

    Returns:
        threshold: the (1 - fpr) quantile of the calibration scores, rounded up to one of them, so that at most a share
            of `fpr` of them lies above.
        tpr, fpr: what positives and negatives realise above it; None where there are none.
        too_small: the calibration set cannot resolve this rate (n * fpr < 1).

    Raises:
        ValueError: there are no calibration scores.
    """
    clean = _scores(calibration)
    if clean.size == 0:
        raise ValueError("a threshold needs calibration scores; got none")
    threshold = float(np.sort(clean)[math.ceil((clean.size - 1) * (1 - fpr))])
    return {
        "threshold": threshold,
        "tpr": tpr_at(positive, threshold),
        "fpr": tpr_at(negative, threshold),
        "too_small": bool(clean.size * fpr < 1),
    }


def _scores(values: Numbers) -> npt.NDArray[np.float64]:
    given = np.asarray(values, dtype=np.float64).ravel()
    if np.isnan(given).any():
        raise ValueError(f"{int(np.isnan(given).sum())} of {given.size} scores are NaN")
    return given


def clustered(values: Numbers, groups: Numbers) -> tuple[float, float] | None:
    """The 95 % Student interval of a mean over groups, such as photographs: each group counts once, by its mean.

    Returns:
        (low, high), or None for a single group.
    """
    given, members = np.asarray(values, dtype=np.float64), np.asarray(groups)
    means = [given[members == name].mean() for name in np.unique(members)]
    _, low, high = t_interval(means)
    return None if low is None or high is None else (low, high)
