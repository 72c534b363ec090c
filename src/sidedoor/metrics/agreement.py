"""Whether several judges put the same things into the same order.

Paper: Kendall, Babington Smith, "The Problem of m Rankings", Annals of Mathematical Statistics 10, 1939.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats


class Agreement(NamedTuple):
    """Of m judges over n things.

    Args:
        w: Kendall's coefficient of concordance, in [0, 1]: 0 where mean ranks are equal, 1 where all judges agree.
        p: of the hypothesis that the orders have nothing to do with each other, by the chi-squared approximation, which
            is rough for fewer than eight things.
        ranks: mean rank of each thing, from 1 for the highest score; equal scores share theirs.
    """

    w: float
    p: float
    ranks: Float[np.ndarray, "n"]


def kendalls_w(scores: Float[np.ndarray, "m n"]) -> Agreement:
    """The agreement of judges who score the same things; ties are corrected for.

    Raises:
        ValueError: fewer than two judges or things, a score that is not finite, or judges who all score everything
            alike.
    """
    judges, things = scores.shape
    if min(judges, things) < 2 or not np.isfinite(scores).all():
        raise ValueError(f"finite scores of at least two judges and two things are needed; got {judges} of {things}")
    ranks = stats.rankdata(-scores, axis=1)
    sums = ranks.sum(0)
    counts = [np.unique(row, return_counts=True)[1].astype(float) for row in ranks]
    tied = sum(float((count**3 - count).sum()) for count in counts)
    most = judges**2 * (things**3 - things) - judges * tied
    if most <= 0:
        raise ValueError("every judge scores everything alike, so there is no order")
    w = float(12 * ((sums - sums.mean()) ** 2).sum() / most)
    return Agreement(w, float(stats.chi2.sf(judges * (things - 1) * w, things - 1)), sums / judges)
