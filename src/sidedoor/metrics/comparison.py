"""What a defence changed as one number, and how sure a mean over attacks and seeds is.

An attack (on one data set and network) is a block, and its seeds are repetitions within it: seeds of one attack say
nothing of other attacks, so intervals resample blocks first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Blocks = Sequence[Sequence[float]]
"""Values of seeds, by block."""
DRAWS = 10_000


def der(clean: tuple[float, float], attack: tuple[float, float]) -> float:
    """Defence effectiveness rating, in [0, 1], as BackdoorBench has it; 0.5 where nothing changed.

    Args:
        clean, attack: accuracy and success rate before and after, in [0, 1].
    """
    return (max(0.0, attack[0] - attack[1]) - max(0.0, clean[0] - clean[1]) + 1) / 2


def net(clean: tuple[float, float], attack: tuple[float, float], recovered: tuple[float, float]) -> float:
    """What is gained, less what it costs, in [-1, 1]: the fall of the success rate, or the rise of the accuracy under
    attack if that is less, minus the fall of the clean accuracy. Unlike `der` it gives no credit to a model that sends
    stamped images to some other wrong class.

    Args:
        clean, attack, recovered: before and after, in [0, 1].
    """
    return min(attack[0] - attack[1], recovered[1] - recovered[0]) - (clean[0] - clean[1])


def block_mean(blocks: Blocks) -> float:
    """The mean of the blocks' means."""
    return float(np.mean([np.mean(seeds) for seeds in blocks]))


def hierarchical_interval(blocks: Blocks, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """An interval for `block_mean` by a bootstrap that draws blocks, then seeds within each.

    Raises:
        ValueError: no blocks, or one without values.
    """
    if not blocks or not all(len(seeds) for seeds in blocks):
        raise ValueError("expected at least one block, and a value in each")
    rng = np.random.default_rng(seed)
    # Of every block as many draws as there may be copies of it, since each copy resamples its seeds afresh.
    means = np.stack([rng.choice(np.asarray(seeds, float), (DRAWS, len(blocks), len(seeds))).mean(2)
                      for seeds in blocks], axis=2)  # (draws, copies, blocks)
    chosen = rng.integers(len(blocks), size=(DRAWS, len(blocks)))
    drawn = np.take_along_axis(means, chosen[:, :, None], axis=2)[:, :, 0].mean(1)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def signed_rank_p(first: Blocks, second: Blocks) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test over the means of the same blocks; 1 where all are equal.

    Exact whatever the number of blocks, ties and blocks that do not differ included: every difference may have had
    either sign. With n blocks it is at least 2 / 2^n, so that fewer than six cannot reach 0.05.
    """
    differences = np.array([np.mean(a) - np.mean(b) for a, b in zip(first, second, strict=True)])
    if not differences.any():
        return 1.0
    from scipy.stats import rankdata  # as long to import as half of torch, and tables of results do not need it

    moving = differences != 0
    doubled = np.rint(2 * rankdata(np.abs(differences))).astype(int)[moving]  # halves where ranks are shared
    ways = np.ones(1)  # the probability of each sum of positive ranks, one difference after another
    for rank in doubled:
        ways = (np.append(ways, np.zeros(rank)) + np.append(np.zeros(rank), ways)) / 2
    total = int(doubled[differences[moving] > 0].sum())
    return min(1.0, 2 * float(min(ways[: total + 1].sum(), ways[total:].sum())))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of a family, in its order (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values, float)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0) if len(order) else scaled
    return [float(value) for value in adjusted]
