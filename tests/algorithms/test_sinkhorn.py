"""Sinkhorn's algorithm: masses as asked for, by scaling rows and columns alone."""

from __future__ import annotations

import pytest
import torch

from sidedoor.algorithms.sinkhorn import balanced


@pytest.mark.parametrize("sharpness", [1.0, 25.0])
def test_the_plan_has_the_masses_of_rows_and_of_the_prior(sharpness: float) -> None:
    torch.manual_seed(0)
    scores, prior = sharpness * torch.randn(300, 5).log_softmax(1), torch.tensor([0.1, 0.1, 0.2, 0.3, 0.3]).log()
    plan = balanced(scores, prior).exp()
    torch.testing.assert_close(plan.sum(0), prior.exp(), atol=1e-3, rtol=0)
    torch.testing.assert_close(plan.sum(1) * 300, torch.ones(300), atol=2e-2, rtol=0)
    crossed = plan[:2, :2].log()  # a plan only scales rows and columns
    ours = crossed[0, 0] + crossed[1, 1] - crossed[0, 1] - crossed[1, 0]
    given = scores[0, 0] + scores[1, 1] - scores[0, 1] - scores[1, 0]
    torch.testing.assert_close(ours, given, atol=1e-2, rtol=1e-3)


def test_the_plan_is_as_good_as_its_sweeps_allow() -> None:
    torch.manual_seed(0)
    scores, prior = 25 * torch.randn(300, 5).log_softmax(1), torch.full((5,), 0.2).log()
    errors = [(balanced(scores, prior, sweeps).exp().sum(1) * 300 - 1).abs().mean() for sweeps in (1, 20, 10_000)]
    assert errors[0] > errors[1] > errors[2]
