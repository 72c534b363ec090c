from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from backdoored_digits import Scene
from torch import nn

from sidedoor.data.base import ArrayDataset, Dataset
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


def test_pruned_units_stay_pruned_and_the_result_is_plain(world: World) -> None:
    kept = METHOD.kept(copy.deepcopy(world.model), world.clean, TASK, RUN)
    weight = head(world.repaired).weight
    assert 0 < kept.sum() < len(kept)
    assert (weight[:, ~kept] == 0).all()
    assert (weight[:, kept] != 0).any(0).all()
    assert (weight[:, kept] != head(world.model).weight[:, kept]).any()
    assert world.repaired.state_dict().keys() == world.state.keys()


def test_the_most_dormant_units_go_first_and_as_many_as_accuracy_allows(world: World) -> None:
    model = copy.deepcopy(world.model).eval()
    x, y, _ = world.clean.fetch(torch.arange(len(world.clean)))
    with torch.no_grad():
        logits, features = penultimate(model, x)
    kept = METHOD.kept(model, world.clean, TASK, RUN)
    activation = features.mean(0)
    assert activation[~kept].max() <= activation[kept].min()

    def accuracy(pruned: torch.Tensor) -> float:
        masked = copy.deepcopy(model)
        with torch.no_grad():
            head(masked).weight[:, pruned] = 0
            return (masked(x).argmax(1) == y).float().mean().item()

    before = (logits.argmax(1) == y).float().mean().item()
    following = activation.masked_fill(~kept, torch.inf).argmin()
    assert accuracy(~kept) >= before - METHOD.largest_drop
    assert accuracy(~kept | (torch.arange(len(kept)) == following)) < before - METHOD.largest_drop


def test_no_drop_allowed_prunes_only_what_costs_nothing() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    features = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    weight = torch.tensor([[5.0, 1.0, 0.0], [5.0, 0.0, 1.0]])
    y = torch.tensor([0, 1])
    task = Classification(2)
    # Without the second unit the first image is a tie, which goes to class 0; without the third unit nothing is left.
    assert FinePruning(largest_drop=0.0).count(logits, features, weight, y, task) == 2
    assert FinePruning(largest_drop=0.0).count(logits.flip(0), features.flip(0), weight, y.flip(0), task) == 2
    flipped = features[:, [0, 2, 1]], weight[:, [0, 2, 1]]
    assert FinePruning(largest_drop=0.0).count(logits, *flipped, y, task) == 1
    assert FinePruning(largest_drop=1.0).count(logits, *flipped, y, task) == 2


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
    kept = FinePruning(largest_drop=0.3).kept(model, clean, Classification(4), RUN)
    with torch.no_grad():
        model.classify.weight[:, ~kept] = 0
    assert 0 < kept.sum() < 12
    assert (model(x).argmax(1) == clean.targets).float().mean() >= 0.7
