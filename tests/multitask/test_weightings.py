"""Each weighting's gradient against numbers worked by hand."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.multitask.base import Weighting
from sidedoor.multitask.dwa import DWA
from sidedoor.multitask.mgda import MGDA
from sidedoor.multitask.pcgrad import PCGrad
from sidedoor.multitask.static import Static
from sidedoor.multitask.torchjd import TorchJD
from sidedoor.multitask.uncertainty import Uncertainty

FLOATS = st.floats(-3, 3, allow_nan=False, width=32)
COARSE = FLOATS.map(lambda value: round(value, 3))
"""For comparisons with torchjd, which divides by squares of tiny gradients; those underflow to zero."""


def gradient(weighting: Weighting, *rows: tuple[float, ...]) -> Tensor:
    """What is left in `.grad` of a parameter on which each loss is linear with the row as its gradient."""
    w = nn.Parameter(torch.zeros(len(rows[0])))
    losses = torch.tensor(rows) @ w + 1.0
    weighting.start(len(rows)).backward(losses, [w])
    assert w.grad is not None
    return w.grad


def test_static_weights_scale_each_loss() -> None:
    assert torch.allclose(gradient(Static(), (1.0, 0.0), (0.0, 1.0)), torch.tensor([0.9, 0.1]))
    assert torch.allclose(gradient(Static((1.0, 1.0)), (1.0, 2.0), (3.0, 4.0)), torch.tensor([4.0, 6.0]))


def test_static_weights_are_one_a_task() -> None:
    with pytest.raises(ConfigError, match="2 weights given for 3 tasks"):
        Static().start(3)
    with pytest.raises(ConfigError, match="at least 0"):
        Static((1.0, -0.1))


def test_pcgrad_leaves_the_main_task_alone() -> None:
    """g_m = (1, 0), g_b = (-1, 1): the backdoor's is projected to (0, 1)."""
    assert torch.allclose(gradient(PCGrad(), (1.0, 0.0), (-1.0, 1.0)), torch.tensor([1.0, 1.0]))


def test_symmetric_pcgrad_projects_both_against_the_originals() -> None:
    """g_m' = (1, 0) + (-1, 1) / 2 = (1/2, 1/2)."""
    found = gradient(PCGrad("symmetric"), (1.0, 0.0), (-1.0, 1.0))
    assert torch.allclose(found, torch.tensor([0.5, 1.5]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(COARSE, COARSE, COARSE), min_size=2, max_size=2))
def test_symmetric_pcgrad_is_torchjds(rows: list[tuple[float, ...]]) -> None:
    """Of two tasks the order in which they are drawn does not count, and torchjd's own implementation agrees."""
    assert torch.allclose(gradient(PCGrad("symmetric"), *rows), gradient(TorchJD("PCGrad"), *rows), atol=1e-4)


def test_the_mean_of_torchjd_is_half_the_sum() -> None:
    assert torch.allclose(gradient(TorchJD("Mean"), (1.0, 2.0), (3.0, 4.0)), torch.tensor([2.0, 3.0]))


@pytest.mark.parametrize(("aggregator", "options", "message"), [
    ("PCGad", (), "did you mean PCGrad"), ("NashMTL", (), "unknown stateless aggregator"),
    ("FairGrad", (), "missing 1 required positional argument: 'alpha'"),
    ("MGDA", (("iterations", 3.0),), "unexpected keyword argument 'iterations'"),
])
def test_what_torchjd_does_not_have_or_take_is_said(aggregator: str, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TorchJD(aggregator, options).start(2)


def test_without_torchjd_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(CannotComplete, match=r"sidedoor\[mtl\]"):
        TorchJD().start(2)


def test_gradients_that_agree_are_summed() -> None:
    for variant in ("paper", "symmetric"):
        found = gradient(PCGrad(variant), (1.0, 2.0), (0.5, 0.5))  # type: ignore[arg-type]
        assert torch.allclose(found, torch.tensor([1.5, 2.5]))


@settings(deadline=None, max_examples=60)
@given(st.lists(FLOATS, min_size=4, max_size=4), st.lists(FLOATS, min_size=4, max_size=4))
@example([0.0, 0.0, -2.2e-29, 0.0], [0.0, 0.0, 1.0, 0.0])
def test_a_step_of_pcgrad_never_raises_the_main_loss(m: list[float], b: list[float]) -> None:
    found = gradient(PCGrad(), tuple(m), tuple(b))
    main = torch.tensor(m)
    assert found @ main >= main @ main - 1e-4 * (1 + (main @ main).item())


def test_the_product_is_over_all_parameters_together() -> None:
    """Layer by layer the first would conflict, (1)·(-1); together they do not, -1 + 4."""
    one, two = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    losses = torch.stack([(one + 2 * two).sum(), (-one + 2 * two).sum()])
    PCGrad().start(2).backward(losses, [one, two])
    assert one.grad is not None
    assert two.grad is not None
    assert (one.grad.item(), two.grad.item()) == (0, 4)


def test_a_parameter_of_one_task_only_gets_that_task_s_gradient() -> None:
    shared, own = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    losses = torch.stack([(2 * shared).sum(), (3 * shared + 5 * own).sum()])
    PCGrad().start(2).backward(losses, [shared, own])
    assert shared.grad is not None
    assert own.grad is not None
    assert (shared.grad.item(), own.grad.item()) == (5, 5)


def test_uncertainties_settle_where_the_variance_is_the_loss() -> None:
    losses = torch.tensor([0.5, 2.0])
    aggregator: Any = Uncertainty().start(2)
    optimiser = torch.optim.Adam(aggregator.parameters(), lr=0.05)
    for _ in range(800):
        optimiser.zero_grad()
        aggregator.backward(losses, [])
        optimiser.step()
    assert torch.allclose(aggregator.v.exp(), losses, rtol=1e-2)


def test_uncertainty_has_the_gradient_of_equation_7_and_a_floor() -> None:
    found = gradient(Uncertainty(start_at=math.log(4.0)), (1.0, 0.0), (0.0, 1.0))
    assert torch.allclose(found, torch.tensor([0.125, 0.125]))  # 1 / (2 σ²)
    floored = gradient(Uncertainty(start_at=-50.0), (1.0,))
    assert floored.item() == pytest.approx(0.5 * math.exp(10))


def test_dwa_is_plain_for_two_epochs_and_then_the_softmax_of_equation_8() -> None:
    aggregator: Any = DWA().start(2)
    for means in ((4.0, 4.0), (2.0, 4.0)):
        assert torch.equal(aggregator.weights, torch.ones(2))
        aggregator.end_epoch(torch.tensor(means))
    high, low = math.exp(1 / 2), math.exp(0.5 / 2)  # r = 0.5 and 1, T = 2
    expected = torch.tensor([2 * low / (low + high), 2 * high / (low + high)])
    assert torch.allclose(aggregator.weights, expected)
    aggregator.end_epoch(torch.tensor([1.0, 2.0]))
    assert torch.allclose(aggregator.weights, torch.ones(2))


def test_the_gradient_of_one_of_several_scalars_runs_through_its_own_graph_only() -> None:
    w, ran = nn.Parameter(torch.ones(2)), []
    ones = [w * 1.0, w * 2.0]
    for i, branch in enumerate(ones):
        branch.register_hook(lambda _, i=i: ran.append(i))
    PCGrad().start(2).backward(tuple(branch.sum() for branch in ones), [w])
    assert ran == [0, 1]
    assert w.grad is not None
    assert w.grad.tolist() == [3.0, 3.0]


def test_mgda_takes_the_foot_of_the_perpendicular_or_the_shorter_gradient() -> None:
    """Of (1, 0) and (0, 2) the nearest point to 0 is (4/5, 2/5); of (1, 0) and (3, 1) it is (1, 0) itself."""
    assert torch.allclose(gradient(MGDA(), (1.0, 0.0), (0.0, 2.0)), torch.tensor([0.8, 0.4]))
    assert torch.allclose(gradient(MGDA(), (1.0, 0.0), (3.0, 1.0)), torch.tensor([1.0, 0.0]))
    assert torch.allclose(gradient(MGDA(), (1.0, 0.0), (-1.0, 0.0)), torch.zeros(2), atol=1e-6)


def test_scaled_mgda_gives_a_task_that_is_done_little() -> None:
    """Losses 1 and 0.1 along two axes count as gradients of length 1 and 10: the weights are 100 and 1 of 101."""
    w = nn.Parameter(torch.zeros(2))
    MGDA("loss").start(2).backward(torch.stack([1 + 5 * w[0], 0.1 + 0.01 * w[1]]), [w])
    assert w.grad is not None
    assert torch.allclose(w.grad, torch.tensor([5 * 100 / 101, 0.01 / 101]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(COARSE, COARSE, COARSE), min_size=3, max_size=3))
def test_mgda_is_as_short_as_torchjds_and_worsens_no_task(rows: list[tuple[float, ...]]) -> None:
    pytest.importorskip("torchjd")
    ours, theirs = gradient(MGDA(iterations=500), *rows), gradient(TorchJD("MGDA"), *rows)
    assert ours.norm() <= theirs.norm() + 0.02
    assert (torch.tensor(rows) @ ours).min() > -0.1
