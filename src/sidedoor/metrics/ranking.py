"""Ranks of methods over blocks, and how sure they are.

Papers: Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7, 2006, sections 3.1.3 and
3.2.2 to 3.2.4; Iman, Davenport, "Approximations of the critical region of the Friedman statistic", Communications in
Statistics 1980; Wilcoxon, "Individual Comparisons by Ranking Methods", Biometrics Bulletin 1945; Holm, "A Simple
Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 1979.

A block is an attack on one data set and network; seeds are repetitions within it, and no blocks of their own: they are
averaged before anything is ranked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from sidedoor.metrics.comparison import DRAWS, holm, signed_rank_p

Numbers = npt.NDArray[np.float64]
LEAST = 6
"""Blocks that a test takes: two-sided, signed ranks of five blocks cannot reach 0.05 (2 / 2^5 = 0.0625)."""
POINT = 0.01
"""Two methods tie that differ by less in both success rate and accuracy; ours: a test set of 1,000 resolves no less."""
MISSING = 0.2
"""The largest share of the blocks that a ranked method may lack; ours."""


class Score(NamedTuple):
    """What a method did to one seed of a block.

    Args:
        value: that it is ranked by, higher is better.
        attack, clean: success rate and accuracy that are left, in [0, 1].
    """

    value: float
    attack: float
    clean: float


Scores = Mapping[str, Mapping[str, Mapping[int, Score]]]
"""Of each method, of each block, of each seed."""


@dataclass(frozen=True)
class Field:
    """The methods that are ranked, and the blocks that all of them have.

    Args:
        methods: names.
        blocks: names.
        tables: of each block (seeds that all methods have, methods, value attack clean).
        unranked: methods that are left out, each with the reason.
        left_out: blocks that some of the methods lack.
    """

    methods: tuple[str, ...]
    blocks: tuple[str, ...]
    tables: tuple[Numbers, ...]
    unranked: dict[str, str]
    left_out: tuple[str, ...]

    @property
    def seeds(self) -> tuple[int, int]:
        """The least and the largest number of seeds of a block."""
        counts = [len(table) for table in self.tables]
        return min(counts, default=0), max(counts, default=0)


class Standing(NamedTuple):
    """Where a method stands.

    Args:
        rank: its mean rank; 1 is best.
        low, high: the 95 % interval.
        first: the probability that its mean rank is the least, shared between equal ones.
    """

    rank: float
    low: float
    high: float
    first: float


class Friedman(NamedTuple):
    """Friedman's test and its less conservative form by Iman and Davenport; p-values of both."""

    chi2: float
    chi2_p: float
    f: float
    f_p: float


class Versus(NamedTuple):
    """A method against the baseline.

    Args:
        blocks: that both have.
        difference: the mean over these of its value less the baseline's.
        p: of the signed-rank test; None where there is no test.
        adjusted: the same after Holm's procedure over all methods that are tested.
        reason: why there is no test, else empty.
    """

    blocks: int
    difference: float
    p: float | None = None
    adjusted: float | None = None
    reason: str = ""


def field(scores: Scores) -> Field:
    """The methods that have enough blocks, with the blocks and seeds that all of these have."""
    every = list(dict.fromkeys(block for of in scores.values() for block, seeds in of.items() if seeds))
    unranked = {}
    for method, of in scores.items():
        missing = [block for block in every if not of.get(block)]
        if len(missing) > MISSING * len(every):
            unranked[method] = f"it has no result in {len(missing)} of {len(every)} blocks"
    methods = tuple(method for method in scores if method not in unranked)
    tables = {}
    for block in every if methods else ():
        common = sorted(set.intersection(*(set(scores[method].get(block, ())) for method in methods)))
        if common:
            tables[block] = np.array([[scores[method][block][seed] for method in methods] for seed in common])
    return Field(methods, tuple(tables), tuple(tables.values()), unranked,
                 tuple(block for block in every if block not in tables))


def ranks(values: Numbers, alike: npt.NDArray[np.bool_] | None = None) -> Numbers:
    """Of the largest value 1; ties share the mean of their ranks.

    A method's rank is 1 more than the number of those that beat it, and half of those that tie with it: the usual mean
    rank where ties are transitive, and of the same sum, k (k + 1) / 2, where they are not.

    Args:
        values: (..., k).
        alike: (..., k, k), further pairs that tie.
    """
    mine, other = values[..., :, None], values[..., None, :]
    tied = mine == other if alike is None else (mine == other) | alike
    found: Numbers = 0.5 + np.where(tied, 0.5, other > mine).sum(-1)
    return found


def block_ranks(table: Numbers) -> Numbers:
    """Ranks in a block.

    Args:
        table: (..., k, value attack clean), the mean over seeds.
    """
    near = np.abs(table[..., :, None, 1:] - table[..., None, :, 1:]) < POINT - 1e-12
    return ranks(table[..., 0], np.asarray(near.all(-1)))


def mean_ranks(given: Field) -> Numbers:
    """Of each method over the blocks."""
    found: Numbers = np.mean([block_ranks(table.mean(0)) for table in given.tables], axis=0)
    return found


def standings(given: Field, seed: int = 0, draws: int = DRAWS) -> dict[str, Standing]:
    """Mean ranks with intervals by a bootstrap that draws blocks, then seeds within each, the same for all methods.

    Raises:
        ValueError: there is no block or no method.
    """
    if not given.tables or not given.methods:
        raise ValueError("expected at least one block that all methods have")
    rng, count = np.random.default_rng(seed), len(given.tables)
    chosen = rng.integers(count, size=(draws, count))
    drawn_ranks = np.zeros((draws, len(given.methods)))
    for block, table in enumerate(given.tables):
        copies = np.nonzero(chosen == block)[0]
        np.add.at(drawn_ranks, copies, _drawn_ranks(table, len(copies), rng))
    drawn_ranks /= count
    low, high = np.quantile(drawn_ranks, [0.025, 0.975], axis=0)
    best = np.isclose(drawn_ranks, drawn_ranks.min(1, keepdims=True), rtol=0, atol=1e-9)
    won = (best / best.sum(1, keepdims=True)).mean(0)
    return {method: Standing(*map(float, numbers)) for method, *numbers in
            zip(given.methods, mean_ranks(given), low, high, won, strict=True)}


def _drawn_ranks(table: Numbers, draws: int, rng: np.random.Generator) -> Numbers:
    """(draws, methods) ranks in a block whose seeds are drawn with replacement."""
    seeds = len(table)
    counts = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
    # There are few ways to draw a few seeds: each is ranked once.
    _, first, which = np.unique(counts @ (seeds + 1.0) ** np.arange(seeds), return_index=True, return_inverse=True)
    return block_ranks(np.tensordot(counts[first] / seeds, table, 1))[which]


def friedman(mean: Numbers, blocks: int) -> Friedman:
    """Whether all methods are alike: Demšar's equations for chi2_F and F_F, without a correction for ties.

    Args:
        mean: rank of each method over the blocks.

    Raises:
        ValueError: fewer than two methods or two blocks.
    """
    k, n = len(mean), blocks
    if k < 2 or n < 2:
        raise ValueError(f"expected at least two methods and two blocks; got {k} and {n}")
    chi2 = 12 * n / (k * (k + 1)) * float((np.square(mean)).sum() - k * (k + 1) ** 2 / 4)
    room = n * (k - 1) - chi2
    f = math.inf if room < 1e-9 * n else (n - 1) * chi2 / room
    return Friedman(chi2, float(stats.chi2.sf(chi2, k - 1)), f, float(stats.f.sf(f, k - 1, (k - 1) * (n - 1))))


def critical_difference(methods: int, blocks: int, alpha: float = 0.05) -> float:
    """Nemenyi's: mean ranks that differ by less are not told apart, over all pairs of methods."""
    q = float(stats.studentized_range.ppf(1 - alpha, methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * blocks))


def not_told_apart(mean: Numbers, difference: float) -> list[tuple[int, int]]:
    """The longest runs of methods whose mean ranks differ by less than a critical difference, as (first, last) places
    in the order of mean ranks; runs of one are left out.
    """
    ordered = np.sort(mean)
    runs = [(first, int(np.searchsorted(ordered, value + difference, side="left")) - 1)
            for first, value in enumerate(ordered)]
    return [(a, b) for n, (a, b) in enumerate(runs) if b > a and (n == 0 or b > runs[n - 1][1])]


def against(scores: Scores, baseline: str) -> dict[str, Versus]:
    """Each method against one baseline, over the blocks that both have: not all pairs, of which there are too many.

    Raises:
        KeyError: there is no such method.
    """
    base = {block: seeds for block, seeds in scores[baseline].items() if seeds}
    found = {}
    for method, of in scores.items():
        if method == baseline:
            continue
        common = [block for block in base if of.get(block)]
        first, second = ([[score.value for score in each[block].values()] for block in common] for each in (of, base))
        found[method] = _versus(first, second)
    tested = {method: versus.p for method, versus in found.items() if versus.p is not None}
    for method, adjusted in zip(tested, holm(list(tested.values())), strict=True):
        found[method] = found[method]._replace(adjusted=adjusted)
    return found


def _versus(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> Versus:
    count = len(first)
    if not count:
        return Versus(0, math.nan, reason="the two have no block in common")
    difference = float(np.mean([np.mean(a) - np.mean(b) for a, b in zip(first, second, strict=True)]))
    if count < LEAST:
        return Versus(count, difference, reason=f"{count} block{'s' * (count != 1)} in common; a test takes {LEAST}, "
                      "since with fewer signed ranks cannot reach 0.05")
    return Versus(count, difference, signed_rank_p(first, second))
