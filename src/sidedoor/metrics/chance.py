"""What chance does with a secret: how often a model that owes nothing to the owner's data meets secret labels, and how
often one that does is found out. Everything is decided before anybody is asked.

Under the null hypothesis the labels of k keys are uniform, independent of each other and of the model. The number of
keys whose label the model gives is then binomial with k trials and a probability of one over the number of classes,
whatever the model answers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import optimize, stats


def hits_p(hits: int, keys: int, classes: int) -> float:
    """The probability of as many hits or more by chance; 1 for none."""
    return min(1.0, float(stats.binom.sf(hits - 1, keys, 1 / classes)))


def needed_hits(keys: int, classes: int, alpha: float) -> int | None:
    """The fewest hits with which the null hypothesis is rejected; None where even all of them are too few."""
    return next((hits for hits in range(1, keys + 1) if hits_p(hits, keys, classes) <= alpha), None)


def power(keys: int, classes: int, alpha: float, rate: float) -> float:
    """The probability that a model trained on the data is found out.

    Args:
        rate: the probability that such a model gives the secret label of a key.
    """
    hits = needed_hits(keys, classes, alpha)
    return 0.0 if hits is None else float(stats.binom.sf(hits - 1, keys, rate))


def needed_rate(keys: int, classes: int, alpha: float, wanted: float = 0.95) -> float | None:
    """The least probability of a hit that leads to a power; None where there are too few keys for the level."""
    return _least(lambda rate: power(keys, classes, alpha, rate), wanted)


def needed_keys(classes: int, alpha: float, rate: float, wanted: float = 0.95, most: int = 512) -> int | None:
    """The fewest keys that lead to a power; None where so many are not enough."""
    return next((keys for keys in range(1, most + 1) if power(keys, classes, alpha, rate) >= wanted), None)


def bet(hit: bool, classes: int, rate: float) -> float:
    """By what a hit or a miss multiplies an e-value: the likelihood ratio of a hit rate against chance.

    Its mean under the null hypothesis is 1, so that the product over keys exceeds 1/alpha at any time with a
    probability of at most alpha (Ville's inequality).

    Args:
        rate: of hits, that the owner bets on; above chance and below 1.
    """
    return classes * rate if hit else (1 - rate) * classes / (classes - 1)


def sequential_power(keys: int, classes: int, alpha: float, rate: float, staked: float) -> float:
    """The probability that the product of bets reaches 1/alpha within so many keys.

    Args:
        rate: the probability that a model trained on the data gives the secret label of a key.
        staked: the rate of hits that is bet on.
    """
    gain, loss = np.log([bet(True, classes, staked), bet(False, classes, staked)])
    going, found = np.ones(1), 0.0  # the probability of each number of hits while the bets go on
    for asked in range(1, keys + 1):
        going = np.append(going * (1 - rate), 0.0) + np.append(0.0, going * rate)
        hits = np.arange(asked + 1)
        paid = hits * gain + (asked - hits) * loss >= -np.log(alpha) - 1e-12
        found, going = found + going[paid].sum(), np.where(paid, 0.0, going)
    return float(found)


def needed_sequential_rate(keys: int, classes: int, alpha: float, staked: float, wanted: float = 0.95) -> float | None:
    """As `needed_rate`, of the sequential test."""
    return _least(lambda rate: sequential_power(keys, classes, alpha, rate, staked), wanted)


def _least(power: Callable[[float], float], wanted: float) -> float | None:
    """The least rate with a power; None where even 1 has less."""
    if power(1.0) < wanted:
        return None
    return float(optimize.brentq(lambda rate: power(rate) - wanted, 0.0, 1.0))
