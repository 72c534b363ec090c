"""Super-fine-tuning: its learning rates, and that a factor of the loss is a learning rate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.repair.super_fine_tuning import SuperFineTuning
from sidedoor.engine import Recipe, Run
from sidedoor.tasks.classification import Classification

METHOD = SuperFineTuning(steps=100, cyclic=0.4, period=20, lowest=0.1, highest=2.1, last=0.05)


def test_rates_go_up_and_down_and_then_stay() -> None:
    assert [METHOD.rate(step) for step in (0, 5, 10, 15, 20, 30)] == pytest.approx([0.1, 1.1, 2.1, 1.1, 0.1, 2.1])
    assert [METHOD.rate(step) for step in (39, 40, 99, 200)] == pytest.approx([0.3, 0.05, 0.05, 0.05])


def test_steps_are_those_of_sgd_at_these_rates() -> None:
    task, run = Classification(2), Run.local(Recipe(epochs=9, optimizer="adam", patience=3), device="cpu")
    images = torch.full((8, 1, 2, 2), 255, dtype=torch.uint8)
    data = ArrayDataset(images, [1] * 8, 2)  # all rows alike, so that the order does not matter
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    repaired = SuperFineTuning(steps=8, cyclic=0.5, period=4, lowest=0.1, highest=0.5, last=0.02).repair(
        model, data, task, run)
    weights = [parameter.detach().clone().requires_grad_() for parameter in model.parameters()]
    for rate in (0.1, 0.3, 0.5, 0.3, 0.02, 0.02, 0.02, 0.02):
        loss = nn.functional.cross_entropy(torch.ones(1, 4) @ weights[0].T + weights[1], torch.tensor([1]))
        slopes = torch.autograd.grad(loss, weights)
        weights = [(w - rate * g).detach().requires_grad_() for w, g in zip(weights, slopes, strict=True)]
    for found, expected in zip(repaired.parameters(), weights, strict=True):
        torch.testing.assert_close(found, expected, check_layout=False)
    assert len(run.history["super-fine-tuning"]) == 2  # epochs of four steps
