"""Adversarial training: plain training at a bound of 0, and flatter around its images at a larger one."""

from __future__ import annotations

import torch
from torch import nn

from sidedoor.algorithms.adversarial.pgd import Steps, pgd
from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.training.adversarial_training import AdversarialTraining
from sidedoor.engine import Recipe, Run
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised

TASK = Classification(2)


def build() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))


def shades() -> ArrayDataset:
    """Faint noise over an even shade, darker in class 0: a robust feature, and 64 fragile ones."""
    labels = torch.arange(80) % 2
    noise = torch.randint(-20, 21, (80, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    return ArrayDataset((128 + 6 * (2 * labels - 1)[:, None, None, None] + noise).to(torch.uint8), labels, 2)


def test_a_bound_of_zero_is_plain_training() -> None:
    run = Run.local(Recipe(epochs=3, batch=20), device="cpu")
    trained = AdversarialTraining(epsilon=0.0).train(shades(), TASK, build, run)
    (name,) = run.history
    plain = run.fit(run.build(build), shades(), Supervised(TASK), name=name)
    torch.testing.assert_close(trained.state_dict(), plain.state_dict())


def test_it_withstands_perturbations_that_plain_training_does_not() -> None:
    run = Run.local(Recipe(epochs=20, batch=20, lr=0.3), device="cpu")
    data = shades()
    x, y, _ = data.fetch(torch.arange(80))

    def survives(model: nn.Module) -> float:
        moved = pgd(model, x, y, Steps(4 / 255, 1 / 255, 8))
        return (model(moved).argmax(1) == y).float().mean().item()

    plain = run.fit(run.build(build), data, Supervised(TASK), name="plain")
    robust = AdversarialTraining(epsilon=4.0).train(data, TASK, build, run)
    assert (plain(x).argmax(1) == y).float().mean() > 0.9  # the premise
    assert survives(robust) > survives(plain) + 0.05
