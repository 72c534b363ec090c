"""BAN fine-tuning: the noise is bounded and raises the loss, and gradients are those of both losses."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from sidedoor.algorithms.short_training import for_steps
from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.repair.ban_fine_tuning import BANFineTuning, UnderNoise
from sidedoor.engine import Recipe, Run
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised
from sidedoor.types import Batch

TASK = Classification(2)
LAYERS = ("1",)


def build() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 2))
    with torch.no_grad():
        model[1].bias.copy_(torch.randn(6))  # else there is nothing for noise to scale
    return model


def batch(count: int = 32) -> Batch:
    x = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return Batch(x, torch.arange(count) % 2, torch.arange(count))


def loss_at(model: nn.Module, noise: Sequence[Tensor]) -> Tensor:
    factors = {name: p * (1 + n) for (name, p), n in zip(model.named_parameters(), noise, strict=True)}
    logits: Tensor = torch.func.functional_call(model, factors, (batch().x,))
    return nn.functional.cross_entropy(logits, batch().y)


def test_the_noise_is_on_channels_within_the_bound_and_raises_the_loss() -> None:
    model = build()
    objective = UnderNoise(TASK, LAYERS, 0.3, 0.5)
    noise = objective.worst(model, batch())
    named = dict(zip([name for name, _ in model.named_parameters()], noise, strict=True))
    assert {name for name, values in named.items() if values.any()} == {"1.weight", "1.bias"}
    assert all(values.abs().max() <= 0.3 for values in noise)
    drawn = [torch.rand_like(values).mul(0.6).sub(0.3) * (values != 0) for values in noise]
    assert loss_at(model, noise) > loss_at(model, drawn)
    assert loss_at(model, noise) > loss_at(model, [-values for values in noise])


def test_noise_of_layers_without_normalisation_is_one_number_a_row() -> None:
    noise = UnderNoise(TASK, ("0",), 0.3, 0.5).worst(build(), batch())
    assert noise[0].shape == (6, 1, 1, 1)
    assert noise[0].all()


def test_the_gradient_is_that_of_both_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    objective = UnderNoise(TASK, LAYERS, 0.3, 0.5)
    noise = objective.worst(build(), batch())
    monkeypatch.setattr(UnderNoise, "worst", lambda *given: noise)
    before = model[1].running_mean.clone()
    found = torch.autograd.grad(objective.losses(model, batch()).sum(), list(model.parameters()))
    after = model[1].running_mean.clone()
    zeros = [torch.zeros_like(values) for values in noise]
    expected = torch.autograd.grad(loss_at(model, zeros) + 0.5 * loss_at(model, noise), list(model.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    once = build()
    once(batch().x)
    torch.testing.assert_close(after, once[1].running_mean)  # statistics of the plain pass alone
    assert not torch.equal(before, after)


def test_without_the_second_loss_it_is_fine_tuning() -> None:
    images = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data, run, model = ArrayDataset(images, torch.arange(40) % 2, 2), Run.local(Recipe(), device="cpu"), build()
    repaired = BANFineTuning(weight=0.0, steps=12, batch=10).repair(model, data, TASK, run)
    recipe = for_steps(run, data, 12, 10, optimizer="sgd", lr=0.005, momentum=0.9, weight_decay=5e-4,
                       schedule="constant")
    plain = run.fit(build(), data, Supervised(TASK), name="under noise", recipe=recipe)
    torch.testing.assert_close(repaired.state_dict(), plain.state_dict())
    assert not torch.equal(repaired[0].weight, model[0].weight)  # the premise


def test_weights_are_put_back_bit_for_bit() -> None:
    model = build()
    before = [p.detach().clone() for p in model.parameters()]
    UnderNoise(TASK, LAYERS, 0.3, 0.5).losses(model, batch())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
