"""One number of a defence, and intervals over attacks and seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sidedoor.metrics.comparison import block_mean, der, hierarchical_interval, holm, net, signed_rank_p


def test_der_is_a_half_where_nothing_changed_and_falls_with_accuracy() -> None:
    assert der((0.9, 0.9), (1.0, 1.0)) == 0.5
    assert der((0.9, 0.9), (1.0, 0.0)) == 1.0
    assert der((0.9, 0.8), (1.0, 0.0)) == pytest.approx(0.95)
    assert der((0.9, 0.95), (0.5, 0.7)) == 0.5  # gains of accuracy and worse attacks do not count


def test_net_gives_no_credit_for_stamped_images_that_stay_wrong() -> None:
    assert net((0.9, 0.9), (1.0, 0.0), (0.0, 0.9)) == pytest.approx(0.9)
    assert net((0.9, 0.9), (1.0, 0.0), (0.0, 0.1)) == pytest.approx(0.1)
    assert net((0.9, 0.1), (1.0, 0.0), (0.0, 0.1)) == pytest.approx(-0.7)


def test_blocks_count_alike_whatever_their_seeds() -> None:
    assert block_mean([[0.0], [1.0, 1.0, 1.0]]) == 0.5


def test_the_interval_is_that_of_blocks_not_of_all_values() -> None:
    rng = np.random.default_rng(1)
    centres = rng.normal(0, 1, 12)
    blocks = [list(centre + rng.normal(0, 0.01, 50)) for centre in centres]
    low, high = hierarchical_interval(blocks)
    half = (high - low) / 2
    expected = 1.96 * centres.std(ddof=0) / 12**0.5
    assert half == pytest.approx(expected, rel=0.1)
    assert low < block_mean(blocks) < high


def test_seeds_within_a_block_are_drawn_afresh_for_each_copy() -> None:
    """One block: the interval is that of its seeds."""
    seeds = list(np.random.default_rng(0).normal(0, 1, 200))
    low, high = hierarchical_interval([seeds])
    assert (high - low) / 2 == pytest.approx(1.96 * np.std(seeds) / 200**0.5, rel=0.1)
    two = hierarchical_interval([seeds, seeds])  # two copies average out
    assert (two[1] - two[0]) == pytest.approx((high - low) / 2**0.5, rel=0.1)


@pytest.mark.parametrize("blocks", [[], [[1.0], []]])
def test_nothing_to_draw_from_is_refused(blocks: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="at least one block"):
        hierarchical_interval(blocks)


def test_signed_ranks_are_those_of_block_means() -> None:
    first = [[1.0, 3.0], [5.0], [4.0], [7.0], [9.0], [3.0]]
    second = [[1.0, 1.0], [3.0], [1.0], [3.0], [4.0], [-3.0]]
    assert signed_rank_p(first, second) == pytest.approx(stats.wilcoxon([1, 2, 3, 4, 5, 6]).pvalue)
    assert signed_rank_p(first, second) == pytest.approx(2 / 2**6)
    assert signed_rank_p(first, first) == 1


def test_holm_multiplies_by_the_hypotheses_that_are_left() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
