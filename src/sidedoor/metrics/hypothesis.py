"""Tests whose false-alarm rate is exact because a suspect is ranked among references like it: conformal p-values.

If a clean suspect and the references are exchangeable, the rank of its score among theirs is uniform, whatever the
distribution of the scores (Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

Table = npt.NDArray[np.float64]


def conformal_p(score: float, references: Sequence[float]) -> float:
    """The share of a suspect and its references whose score is at least the suspect's; ties speak for the suspect."""
    return (1 + sum(other >= score for other in references)) / (1 + len(references))


def pooled(scores: Table) -> Table:
    """One statistic a model from scores by several audits: how far it lies above the median by the one that sees most.

    An audit's scale is the median and the median absolute deviation of all models, the suspect among them, so that
    models stay exchangeable and the rank of the statistic is uniform however the audits depend on each other. The
    largest rather than the sum: an audit sees the triggers that it was made for and is blind to others, while what
    clean models have by chance, a natural shortcut, all audits see a little of (docs/results/vetting.md).

    Args:
        scores: (models, audits).
    """
    centre = np.median(scores, axis=0)
    spread = np.median(np.abs(scores - centre), axis=0)
    # Where most scores are equal the median deviation is 0 and any other scale will do, as long as all models share it.
    spread = np.where(spread > 0, spread, np.abs(scores - centre).mean(axis=0))
    above: Table = ((scores - centre) / np.where(spread > 0, spread, 1)).max(axis=1)
    return above


def combined_p(suspect: Sequence[float], references: Sequence[Sequence[float]]) -> float:
    """The p-value of a suspect from its scores by several audits and those of its references by the same ones.

    Args:
        references: of each reference, as many scores as the suspect has, in the same order.
    """
    suspected, *others = pooled(np.array([suspect, *references], dtype=np.float64)).tolist()
    return conformal_p(suspected, others)


def needed(alpha: float) -> int:
    """The fewest references with which a p-value can be as small as `alpha`."""
    return math.ceil(1 / alpha - 1 - 1e-9)


def most_probable(p: float) -> float:
    """The largest posterior probability of the alternative that a p-value supports, from prior odds of one.

    By the bound of Vovk and of Sellke, Bayarri, Berger, "Calibration of p Values for Testing Precise Null Hypotheses",
    The American Statistician 2001: the Bayes factor against the null hypothesis is at most -1 / (e p ln p).
    """
    if not 0 < p < 1 / math.e:
        return 0.5
    return 1 / (1 - math.e * p * math.log(p))


def beta_binomial_bound(references: int, suspects: int, alpha: float, level: float = 0.99) -> int:
    """The largest number of false findings among clean suspects that share one set of references, at a confidence.

    Given the references, the rate of false findings is itself random: Beta(k, R + 1 - k) with k = floor(alpha (R + 1)).
    """
    k = math.floor(alpha * (references + 1) + 1e-9)
    return int(stats.betabinom(suspects, k, references + 1 - k).ppf(level)) if k else 0
