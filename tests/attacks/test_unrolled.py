"""Gradients through training steps are those that finite differences find."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sidedoor.attacks.image_to_image._unrolled import Weights, called, unrolled, weights_of

LR = 0.3


def setting(steps: int) -> tuple[nn.Module, Weights, tuple[Tensor, ...]]:
    torch.manual_seed(steps)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Softplus(), nn.Conv2d(3, 1, 3, padding=1)).double()
    return model, weights_of(model), tuple(torch.randn(4, 1, 5, 5, dtype=torch.float64) for _ in range(5))


def after(model: nn.Module, weights: Weights, parts: tuple[Tensor, ...], delta: Tensor, steps: int,
          exact: bool = True) -> Tensor:
    """The outer loss at a trigger: through the steps, and directly."""
    poisoned, clean, truth, target, outer = parts
    weights = unrolled(weights, lambda w: (called(model, w, poisoned + delta) - target).square().mean(),
                       lambda w: (called(model, w, clean) - truth).square().mean(), steps, LR, exact)
    return (called(model, weights, outer + delta) - target).square().mean()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_hypergradient_is_that_of_finite_differences(steps: int) -> None:
    model, weights, parts = setting(steps)
    delta = torch.randn(1, 5, 5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(after(model, weights, parts, delta, steps), delta)
    for place in ((0, 0, 0), (0, 2, 3), (0, 4, 4)):
        step = torch.zeros_like(delta)
        step[place] = 1e-5
        up, down = (after(model, weights, parts, delta.detach() + s, steps) for s in (step, -step))
        assert gradient[place].item() == pytest.approx((up - down).item() / 2e-5, rel=1e-6, abs=1e-10)


def test_the_first_order_gradient_leaves_out_what_training_does() -> None:
    model, weights, parts = setting(2)
    delta = torch.randn(1, 5, 5, dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(after(model, weights, parts, delta, 2), delta)
    (first,) = torch.autograd.grad(after(model, weights, parts, delta, 2, exact=False), delta)
    assert not torch.allclose(exact, first, rtol=1e-3)
    poisoned, clean, truth, target, outer = parts
    trained = unrolled(weights, lambda w: (called(model, w, poisoned + delta.detach()) - target).square().mean(),
                       lambda w: (called(model, w, clean) - truth).square().mean(), 2, LR)
    constant = {name: w.detach() for name, w in trained.items()}
    (direct,) = torch.autograd.grad((called(model, constant, outer + delta) - target).square().mean(), delta)
    assert torch.allclose(first, direct)


def test_unrolled_steps_are_those_of_plain_gradient_descent() -> None:
    model, weights, (poisoned, clean, truth, target, _) = setting(2)
    found = unrolled(weights, lambda w: (called(model, w, poisoned) - target).square().mean(),
                     lambda w: (called(model, w, clean) - truth).square().mean(), 3, LR)
    optimiser = torch.optim.SGD(model.parameters(), lr=LR)
    for _ in range(3):
        optimiser.zero_grad()
        loss = (model(poisoned) - target).square().mean() + (model(clean) - truth).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    for name, parameter in model.named_parameters():
        assert torch.allclose(found[name], parameter)
