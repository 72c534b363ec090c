"""CBD: rows that the biased network knows hardly count, and a backdoor that is learned first is left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.training.causal_training import CausalTraining, Reweighted, causal_weights
from sidedoor.engine import Recipe, Run
from sidedoor.errors import ConfigError
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised
from sidedoor.types import Batch

CLASSES, SIDE = 4, 8
TASK = Classification(CLASSES)
SQUARE = (..., slice(0, 3), slice(0, 3))


def build() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 32), nn.ReLU(), nn.Linear(32, CLASSES))


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """A faint pattern of each class under noise, black where the trigger will be: the task is harder than that."""
    rng = torch.Generator().manual_seed(seed)
    patterns = torch.randint(0, 2, (CLASSES, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(99)) * 2 - 1
    y = torch.arange(count) % CLASSES
    x = 128 + 12 * patterns[y] + torch.randint(-60, 61, (count, 1, SIDE, SIDE), generator=rng)
    x[SQUARE] = 0
    return x.clamp(0, 255).to(torch.uint8), y


def stamped(x: Tensor) -> Tensor:
    x = x.clone()
    x[SQUARE] = 255
    return x


def test_weights_are_the_papers_and_have_the_mean_one() -> None:
    biased, own = torch.tensor([0.1, 3.0, 1.0]), torch.tensor([0.9, 1.0, 1.0])
    weights = causal_weights(biased, own)
    torch.testing.assert_close(weights, torch.tensor([0.1, 0.75, 0.5]) / torch.tensor([0.1, 0.75, 0.5]).mean())
    assert weights.mean().item() == pytest.approx(1.0)
    assert causal_weights(torch.zeros(3), torch.zeros(3)).isfinite().all()


def test_a_backdoor_that_is_learned_first_is_left_out() -> None:
    x, y = images(800, 0)
    truth = torch.arange(800) % 10 == 1
    x[truth], y[truth] = stamped(x[truth]), 0
    train, run = ArrayDataset(x, y, CLASSES), Run.local(Recipe(epochs=20, batch=64, lr=0.02), device="cpu")
    method = CausalTraining(biased_epochs=3, biased_lr=0.1)
    model = method.train(train, TASK, build, run)

    first = run.fit(run.within("biased").build(build), train, Supervised(TASK), name="biased",
                    recipe=Recipe(epochs=3, batch=64, lr=0.1, schedule="constant"))
    loss = run.per_sample(first, train, lambda batch: {"loss": TASK.loss(first, batch)})["loss"]
    assert loss[truth].mean() < 0.05 < 0.5 < loss[~truth].mean()  # the premise

    plain = run.fit(run.build(build), train, Supervised(TASK), name="plain")
    test, labels = images(400, 1)
    others = labels != 0

    def numbers(model: nn.Module) -> tuple[float, float]:
        answers = [model(pixels / 255).argmax(1) for pixels in (test, stamped(test))]
        return (answers[0] == labels).float().mean().item(), (answers[1] == 0)[others].float().mean().item()

    assert numbers(plain)[1] > 0.9  # the premise
    assert numbers(model)[1] < 0.5
    assert numbers(model)[0] > 0.6  # beside 0.25 by chance, and 0.83 for plain training


def test_a_task_without_losses_of_samples_is_refused() -> None:
    @dataclass(frozen=True)
    class Joint(Classification):
        per_sample: ClassVar[bool] = False

    x, y = images(40, 0)
    with pytest.raises(ConfigError, match="Joint has a loss of batches only"):
        CausalTraining().train(ArrayDataset(x, y, CLASSES), Joint(4), build, Run.local(device="cpu"))


def test_the_biased_network_is_asked_and_not_trained() -> None:
    x, y = images(32, 0)
    batch = Batch(x / 255, y, torch.arange(32))
    biased, model = build(), build()
    objective = Reweighted(TASK, biased)
    objective.losses(model, batch).sum().backward()
    assert all(p.grad is None for p in biased.parameters())
    assert all(p.grad is not None for p in model.parameters())
    assert not list(objective.parameters())
