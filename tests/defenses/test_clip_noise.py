"""Gradient shaping: a bounded norm, noise of the stated scale, and plain training without either."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sidedoor.algorithms.optim.at import norm
from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.training.clip_noise import ClipNoise, _Shaped
from sidedoor.engine import Recipe, Run
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised

TASK = Classification(2)


def build() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))


def data() -> ArrayDataset:
    images = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ArrayDataset(images, torch.arange(40) % 2, 2)


def test_what_the_loop_gets_is_clipped_and_noisy() -> None:
    torch.manual_seed(0)
    model, batch = build(), data().fetch(torch.arange(40))
    parameters = list(model.parameters())
    plain = torch.autograd.grad(TASK.loss(model, batch).mean(), parameters)
    size = norm(plain)

    def of(method: ClipNoise) -> list[torch.Tensor]:
        return list(torch.autograd.grad(_Shaped(method, TASK).losses(model, batch).sum(), parameters))

    clip = 0.5 * size.item()
    torch.testing.assert_close(of(ClipNoise(clip=clip, noise=0.0)), [g * 0.5 for g in plain])
    torch.testing.assert_close(of(ClipNoise(clip=3 * clip, noise=0.0)), list(plain))  # short ones stay
    noisy = of(ClipNoise(clip=clip, noise=2.0))
    noise = torch.cat([(a - 0.5 * g).flatten() for a, g in zip(noisy, plain, strict=True)])
    assert noise.std().item() == pytest.approx(2.0 * clip, rel=0.2)
    assert abs(noise.mean().item()) < 0.5 * clip


def test_the_loss_that_is_shown_is_the_tasks() -> None:
    torch.manual_seed(0)
    model, batch = build(), data().fetch(torch.arange(40))
    torch.testing.assert_close(_Shaped(ClipNoise(clip=0.01, noise=1.0), TASK).losses(model, batch)[0],
                               TASK.loss(model, batch).mean())


def test_without_bound_and_noise_it_is_plain_training() -> None:
    run = Run.local(Recipe(epochs=3, batch=20), device="cpu")
    trained = ClipNoise(clip=1e9, noise=0.0).train(data(), TASK, build, run)
    (name,) = run.history
    plain = run.fit(run.build(build), data(), Supervised(TASK), name=name)
    torch.testing.assert_close(trained.state_dict(), plain.state_dict())


def test_validation_has_no_gradient_to_shape() -> None:
    run = Run.local(Recipe(epochs=3, batch=20, patience=2), device="cpu")
    ClipNoise().train(data(), TASK, build, run)
    assert all("valid" in epoch for epoch in run.history["shaped gradients"])
