"""Ranks among references."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sidedoor.metrics.hypothesis import (
    beta_binomial_bound,
    combined_p,
    conformal_p,
    most_probable,
    needed,
    pooled,
)


def test_a_score_above_19_references_has_the_p_value_of_one_in_twenty() -> None:
    assert conformal_p(2.0, [1.0] * 19) == 1 / 20
    assert conformal_p(0.5, [1.0] * 19) == 1
    assert conformal_p(1.0, [1.0, *[0.0] * 18]) == 2 / 20  # a tie speaks for the suspect
    assert conformal_p(1.0, []) == 1


def test_several_audits_above_all_references_do_not_lower_the_p_value_further() -> None:
    references = np.random.default_rng(0).normal(size=(19, 3)).tolist()
    assert combined_p([99.0, 99.0, 99.0], references) == 1 / 20
    assert combined_p([99.0, 0.0, 0.0], references) == 1 / 20  # one that sees it is enough
    assert combined_p([-99.0, -99.0, -99.0], references) == 1  # small scores are not suspicious


def test_one_audit_that_sees_much_outweighs_several_that_see_a_little() -> None:
    scores = np.array([[9.0, 0.0, -3.0], [4.0, 4.0, 4.0], *[[x, x, x] for x in np.linspace(-1.0, 1.0, 18)]])
    suspect, *references = scores.tolist()
    assert combined_p(suspect, references) == 1 / 20
    assert combined_p([3.0, 3.0, 3.0], references) == 2 / 20


def test_the_scale_of_an_audit_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(20, 3))
    assert np.allclose(pooled(scores), pooled(scores * [1, 1000, 0.01] + [0, 5, -7]))


def test_an_audit_that_says_the_same_of_nearly_all_has_a_scale() -> None:
    scores = np.zeros((20, 2))
    scores[3, 0], scores[:, 1] = 1.0, 7.0
    found = pooled(scores)
    assert np.isfinite(found).all()
    assert found.argmax() == 3


def test_the_p_value_of_a_clean_suspect_is_uniform_though_audits_depend_on_each_other() -> None:
    rng = np.random.default_rng(2)
    shared, *own = rng.normal(size=(3, 4000, 20))
    scores = np.exp(np.stack([shared, shared + 0.5 * own[0], own[1]], axis=2))
    found = np.array([combined_p(first, others) for first, *others in scores.tolist()])
    for alpha in (0.05, 0.1, 0.5):
        assert (found <= alpha).mean() == pytest.approx(alpha, abs=4 * math.sqrt(alpha * (1 - alpha) / 4000))


def test_references_that_a_level_needs() -> None:
    assert [needed(alpha) for alpha in (0.05, 0.025, 0.01, 0.1, 0.5)] == [19, 39, 99, 9, 1]


def test_the_bound_on_what_a_p_value_supports() -> None:
    assert most_probable(0.05) == pytest.approx(0.711, abs=1e-3)
    assert most_probable(0.4) == 0.5
    assert most_probable(1) == 0.5
    assert most_probable(0.001) == pytest.approx(1 / (1 + math.e * 0.001 * math.log(1000)))


def test_twenty_clean_suspects_and_one_set_of_19_references_give_at_most_six_false_findings() -> None:
    assert beta_binomial_bound(19, 20, 0.05) == 6
    assert beta_binomial_bound(10, 20, 0.05) == 0  # no p-value is so small
