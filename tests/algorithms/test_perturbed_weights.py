"""Gradients at perturbed weights, a loss that carries gradients, and batch normalisation that keeps its statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from sidedoor.algorithms.optim.at import at, carrying, gradients, trained
from sidedoor.algorithms.optim.batch_norm import frozen_statistics, without_updates

X = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(model.state_dict())


def test_gradients_are_those_at_the_shifted_weights_and_the_weights_stay_bit_for_bit() -> None:
    model, other = network(), network()
    parameters = trained(model)
    shift = [torch.randn_like(p) * 0.3 for p in parameters]
    before = state(model)
    with without_updates(model):
        found = at(parameters, shift, lambda: functional.mse_loss(model(X), torch.ones(8, 3)))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    with torch.no_grad():
        for parameter, change in zip(other.parameters(), shift, strict=True):
            parameter.add_(change)
    functional.mse_loss(other(X), torch.ones(8, 3)).backward()
    for gradient, parameter in zip(found, other.parameters(), strict=True):
        assert torch.equal(gradient, parameter.grad if parameter.grad is not None else torch.zeros(()))


def test_the_weights_come_back_when_the_loss_fails() -> None:
    model = network()
    before = state(model)

    def fails() -> torch.Tensor:
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"):
        at(trained(model), [torch.ones_like(p) for p in trained(model)], fails)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_loss_carries_gradients_and_its_value() -> None:
    parameters = trained(network())
    given = [torch.randn_like(p) for p in parameters]
    loss = carrying(torch.tensor(1.25), parameters, given)
    assert loss.shape == (1,)
    assert loss.item() == pytest.approx(1.25)
    assert all(torch.equal(a, b) for a, b in zip(gradients(loss.sum(), parameters), given, strict=True))


def test_what_a_loss_does_not_depend_on_has_no_gradient() -> None:
    model = network()
    first = gradients(model[0](X).sum(), trained(model))  # type: ignore[index]
    assert first[0].abs().sum() > 0
    assert all(torch.equal(g, torch.zeros_like(g)) for g in first[2:])


def test_statistics_of_the_batch_are_used_and_not_kept() -> None:
    model = network().train()
    model(X)
    before, usual = state(model), model(X)
    model.load_state_dict(before)
    with without_updates(model):
        assert torch.equal(model(X), usual)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    model(X)
    assert not torch.equal(before["1.running_mean"], model.state_dict()["1.running_mean"])


def test_frozen_statistics_are_those_of_evaluation_and_the_mode_comes_back() -> None:
    model = network().train()
    model(X)
    before = state(model)
    with frozen_statistics(model):
        frozen = model(X)
        assert model[0].training  # type: ignore[index]
    assert model[1].training  # type: ignore[index]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(frozen, model.eval()(X))
    with frozen_statistics(model), without_updates(model):
        pass
    assert not model[1].training  # type: ignore[index]
