from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from backdoored_digits import Scene
from torch import nn

from sidedoor.core.logs import warn_once
from sidedoor.data.base import ArrayDataset, Dataset, Subset
from sidedoor.defenses.repair.base import Step
from sidedoor.defenses.repair.fine_pruning import FinePruning
from sidedoor.engine import Recipe, Run
from sidedoor.models.base import head, penultimate
from sidedoor.tasks.classification import Classification

TASK = Classification(10)
RUN = Run.local(Recipe(epochs=8, lr=0.05), device="cpu")
METHOD = FinePruning()


@dataclass
class World:
    scene: Scene
    clean: Dataset
    model: nn.Module
    state: dict[str, torch.Tensor]
    repaired: nn.Module


@pytest.fixture(scope="module")
def world(scene: Scene) -> World:
    model = copy.deepcopy(scene.model).train()
    return World(scene, scene.clean, model, copy.deepcopy(model.state_dict()),
                 METHOD.repair(model, scene.clean, TASK, RUN))


def test_the_attack_fails_afterwards_and_clean_accuracy_stays(world: World) -> None:
    accuracy, _ = world.scene.numbers(world.model)
    assert accuracy > 0.95
    repaired_accuracy, repaired_attack = world.scene.numbers(world.repaired)
    assert repaired_attack < 0.5
    assert repaired_accuracy > accuracy - 0.04


def test_the_model_given_is_left_alone(world: World) -> None:
    assert all(torch.equal(world.state[k], v) for k, v in world.model.state_dict().items())
    assert all(m.training for m in world.model.modules())
    assert all(p.requires_grad for p in world.model.parameters())
    assert world.repaired is not world.model


def units(model: nn.Module) -> torch.Tensor:
    """Which inputs of the head any logit depends on."""
    return (head(model).weight.detach() != 0).any(0).flatten()


def test_pruned_units_stay_pruned_and_the_result_is_plain(world: World) -> None:
    step = METHOD.chosen(METHOD.steps(world.model, world.clean, TASK, RUN))
    kept = units(step.model)
    assert 0 < kept.sum() < len(kept)
    assert step.strength == pytest.approx(1 - kept.float().mean().item())
    weight = head(world.repaired).weight
    assert torch.equal(units(world.repaired), kept)
    assert (weight[:, kept] != head(world.model).weight[:, kept]).any()
    assert world.repaired.state_dict().keys() == world.state.keys()


def test_the_most_dormant_units_go_first_in_equal_shares(world: World) -> None:
    x, y, _ = world.clean.fetch(torch.arange(len(world.clean)))
    model = copy.deepcopy(world.model).eval()
    with torch.no_grad():
        logits, features = penultimate(model, x)
    activation, strengths = features.mean(0), []
    for step in FinePruning(grid=4).steps(world.model, world.clean, TASK, RUN):
        kept = units(step.model)
        strengths.append(step.strength)
        assert (~kept).sum() == round(len(kept) * step.strength)
        if kept.any() and not kept.all():
            assert activation[~kept].max() <= activation[kept].min()
        with torch.no_grad():
            assert step.accuracy == pytest.approx((step.model.eval()(x).argmax(1) == y).float().mean().item())
    most = 1 - 1 / features.shape[1]  # one unit stays
    assert strengths == pytest.approx([0, 0.25, 0.5, 0.75, most], abs=0.02)
    first = next(FinePruning().path(world.model, world.clean, TASK, RUN))[1]
    with torch.no_grad():
        assert torch.allclose(first.eval()(x), logits, atol=1e-5)


@pytest.mark.parametrize(("accuracies", "largest_drop", "expected"), [
    ([0.9, 0.85, 0.79, 0.81, 0.5], 0.1, 3), ([0.9, 0.85, 0.79, 0.81, 0.5], 0.0, 0), ([0.5, 0.4, 0.6], 0.05, 2),
    ([0.5, 0.1, 0.1], 0.2, 0),
])
def test_the_strongest_step_within_the_drop_is_chosen(accuracies: list[float], largest_drop: float,
                                                     expected: int) -> None:
    changing = nn.Linear(1, 1, bias=False)

    def steps() -> Iterator[Step]:
        for n, accuracy in enumerate(accuracies):
            nn.init.constant_(changing.weight, n)
            yield Step(n / 10, changing, accuracy)

    step = FinePruning(largest_drop=largest_drop).chosen(steps())
    assert step.strength == expected / 10
    assert step.model.weight.item() == expected  # type: ignore[operator, union-attr]


def test_few_clean_samples_are_named(world: World, caplog: pytest.LogCaptureFixture) -> None:
    warn_once.cache_clear()  # another test of this process may have been told
    next(METHOD.steps(world.model, Subset(world.clean, torch.arange(20)), TASK, RUN))
    assert "20 clean samples choose the strength of FinePruning" in caplog.text
    caplog.clear()
    next(METHOD.steps(world.model, world.clean, TASK, RUN))
    assert caplog.text == ""


class _Convolutional(nn.Module):
    """A model whose head is a convolution, for three channels and any size."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU())
        self.classify = nn.Conv2d(12, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classify(self.features(x)).mean((2, 3))
        return logits


def test_a_convolutional_head_is_pruned_as_its_logits_say() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (60, 3, 9, 7), dtype=torch.uint8)
    model = _Convolutional()
    x = images.float() / 255
    clean = ArrayDataset(images, model(x).argmax(1), 4)
    step = FinePruning(largest_drop=0.3).chosen(FinePruning().steps(model, clean, Classification(4), RUN))
    kept = units(step.model)
    assert 0 < kept.sum() < 12
    with torch.no_grad():
        model.classify.weight[:, ~kept] = 0
        assert torch.allclose(model(x), step.model(x), atol=1e-5)
    assert (model(x).argmax(1) == clean.targets).float().mean() >= 0.7
