from __future__ import annotations

import copy

import pytest
import torch
from backdoored_digits import Scene
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn import functional

from sidedoor import registry
from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.repair.i_bau import IBAU, Unlearning
from sidedoor.engine import Run
from sidedoor.tasks.classification import Classification
from sidedoor.types import Batch


@pytest.mark.parametrize("iterations", [1, 3])
def test_the_gradient_is_the_direct_and_the_implicit_part(iterations: int) -> None:
    """By explicit Jacobian matrices of Φ."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    for layer in (model[1], model[3]):
        nn.init.normal_(layer.weight)  # steep, so that the implicit part is no rounding
    clean = ArrayDataset(torch.randint(0, 256, (8, 1, 4, 4), dtype=torch.uint8), torch.arange(8) % 3, 3)
    x, y, index = clean.fetch(torch.arange(8))
    samples, batch = Batch(x[:4].double(), y[:4], index[:4]), Batch(x[4:].double(), y[4:], index[4:])
    objective = Unlearning(IBAU(iterations=iterations, clip=False, stamped=0.5), samples, clean, 4)
    objective.delta = torch.randn(1, 4, 4).double() * 0.3
    loss = objective.losses(model, batch).sum()
    found = torch.autograd.grad(loss, list(model.parameters()))

    weights = {name: p.detach() for name, p in model.named_parameters()}

    def outer(theta: dict[str, torch.Tensor], delta: torch.Tensor) -> torch.Tensor:
        given = torch.cat([batch.x[:2] + delta, batch.x[2:]])
        return functional.cross_entropy(functional_call(model, theta, (given,)), batch.y)

    def inner(theta: dict[str, torch.Tensor], delta: torch.Tensor) -> torch.Tensor:
        misled = functional.cross_entropy(functional_call(model, theta, (samples.x + delta,)), samples.y)
        return -misled + 0.001 * delta.square().sum()

    def phi(theta: dict[str, torch.Tensor], delta: torch.Tensor) -> torch.Tensor:
        return (delta - 0.1 * jacrev(inner, 1)(theta, delta)).flatten()

    delta = objective.delta
    jacobian = jacrev(phi, 1)(weights, delta).reshape(16, 16)
    slope = jacrev(outer, 1)(weights, delta).flatten()
    v = sum(torch.linalg.matrix_power(jacobian.T, k) @ slope for k in range(iterations))
    direct, through = jacrev(outer)(weights, delta), jacrev(phi)(weights, delta)
    implicit = [torch.einsum("d,d...->...", v, through[name]) for name in weights]
    assert max(part.abs().max() for part in implicit) > 1e-3  # the premise: there is something to find
    for gradient, name, part in zip(found, weights, implicit, strict=True):
        assert torch.allclose(gradient, direct[name] + part, atol=1e-10)
    assert loss.item() == pytest.approx(outer(weights, delta).item())


def started(scene: Scene, method: IBAU, model: nn.Module) -> Unlearning:
    objective = Unlearning(method, scene.clean.fetch(torch.arange(len(scene.clean))), scene.clean, 32)
    objective.start(model, scene.run)
    return objective


def test_the_perturbation_stays_in_its_ball_and_misleads(scene: Scene) -> None:
    model = copy.deepcopy(scene.model).eval()
    objective = started(scene, IBAU(ball=0.1), model)
    assert objective.delta.norm() <= 0.1 * 16 + 1e-4
    assert started(scene, IBAU(ball=0.0, clip=False), model).delta.norm() > 5 * 0.1 * 16
    x, _, _ = scene.clean.fetch(torch.arange(len(scene.clean)))
    with torch.no_grad():
        clean, random = model(x).argmax(1), torch.randn_like(objective.delta)
        misled = (model(objective.moved(x, objective.delta)).argmax(1) != clean).float().mean()
        noise = objective.moved(x, random * objective.delta.norm() / random.norm())
        assert misled > (model(noise).argmax(1) != clean).float().mean() + 0.2


@pytest.mark.parametrize(("stamped", "expected"), [(0.01, 1), (0.5, 16)])
def test_at_least_one_sample_is_stamped(scene: Scene, stamped: float, expected: int) -> None:
    objective = Unlearning(IBAU(stamped=stamped, iterations=0), scene.clean.fetch(torch.arange(40)), scene.clean, 32)
    objective.delta.fill_(0.25)
    batch, seen = scene.clean.fetch(torch.arange(32)), []
    handle = scene.model.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        objective.losses(scene.model.eval(), batch)
    finally:
        handle.remove()
    assert (seen[0] != batch.x).flatten(1).any(1).sum() == expected
    assert seen[0].max() <= 1


def test_it_unlearns_the_backdoor(scene: Scene) -> None:
    accuracy, attack = scene.numbers(scene.model)
    assert attack > 0.9  # the premise
    repaired = scene.numbers(IBAU(rounds=8, iterations=0).repair(scene.model, scene.clean, scene.task, scene.run))
    assert repaired[1] < 0.5
    assert repaired[0] > accuracy - 0.12  # processors differ by as much as 0.06


def test_transformers_have_second_derivatives_too(scene: Scene) -> None:
    model = registry.make("model", {"name": "vit", "depth": 1, "width": 12})(10, scene.clean.shape).eval()
    before = copy.deepcopy(model.state_dict())
    clean, run = scene.clean, Run.local(device="cpu")
    repaired = IBAU(rounds=1, batch=100, iterations=2).repair(model, clean, Classification(10), run)
    assert any(not torch.equal(before[name], value) for name, value in repaired.state_dict().items())
