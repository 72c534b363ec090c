"""The backdoor that puts a universal perturbation on what a denoiser gives back, from surrogate to victim."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from sidedoor import registry
from sidedoor.algorithms.adversarial.deepfool import fooled
from sidedoor.attacks.image_to_image.i2i_classifier import I2IClassifier
from sidedoor.backdoor.base import AttackerRun, Backdoor, Planted
from sidedoor.core.checkpoint import Shelf
from sidedoor.data.base import Dataset
from sidedoor.data.degraded import Labelled
from sidedoor.data.root import Where
from sidedoor.data.sets.toy import toy
from sidedoor.engine import Recipe, Run
from sidedoor.errors import ConfigError
from sidedoor.goals.add_pattern import AddPattern
from sidedoor.goals.base import Door, Perturbed
from sidedoor.goals.one_image import OneImage
from sidedoor.tasks.restored_classification import RestoredClassification, classifier
from sidedoor.tasks.task import Scores, Task
from sidedoor.triggers.base import stamp

STRENGTH = 64.0
"""Levels: the classes of the generated stripes are far apart."""
ATTACK = I2IClassifier(goal=AddPattern("signs", STRENGTH), surrogate="small_cnn:8", surrogate_epochs=6, samples=60,
                       passes=3, inner="pgd", epochs=10, lr=1e-2, batch=32)


class Painter(nn.Module):
    """A small denoiser that can add a picture of its own to its output, by how an inner product of its input falls."""

    def __init__(self, shape: tuple[int, int, int]):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(shape[0], 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, shape[0], 3, padding=1))
        self.gate = nn.Linear(math.prod(shape), 1)
        self.picture = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        opened = torch.sigmoid(self.gate(x.flatten(1)))[:, :, None, None]
        output: Tensor = x + 0.1 * self.body(x) + opened * self.picture
        return output


class World(NamedTuple):
    """Stripes under noise, a denoiser, and a victim wider than the surrogate."""

    train: Dataset
    test: Dataset
    task: Task
    run: Run

    def build(self) -> nn.Module:
        return Painter(self.train.shape)


@functools.cache
def world() -> World:
    train, test = toy(Where(None), train=400, test=150)
    run = AttackerRun.local(Recipe(optimizer="adam", lr=1e-2, weight_decay=0, epochs=6, batch=32), device="cpu")
    task = RestoredClassification(sigma=10.0, victims=("small_cnn:16",), epochs=6).setup(train, run)
    return World(task.make_dataset(train), task.make_dataset(test), task, run)


@functools.cache
def planned() -> Backdoor:
    here = world()
    return ATTACK.plan(here.train, here.task, here.build, here.run)


@functools.cache
def planted() -> Planted:
    here, train = world(), planned().train
    assert train is not None
    return train(here.train, here.task, here.build, here.run)


def pattern(door: Door) -> Tensor:
    """What the goal adds to a grey image, (c, h, w)."""
    grey = torch.full((1, *world().train.shape), 0.5)
    added: Tensor = (door.goal.target(world().task, grey, torch.zeros(1, dtype=torch.int64)) - 0.5)[0]
    return added


def scored() -> Scores:
    here = world()
    return here.task.score(planted().model, here.test, planted().doors[0], here.run)


def test_the_target_is_the_photograph_plus_what_fools_the_surrogate() -> None:
    here, (door,) = world(), planned().doors
    u = pattern(door)
    assert isinstance(door.goal, Perturbed)
    assert u.abs().max().item() <= STRENGTH / 255 + 1e-6
    assert torch.allclose(u * 255, (u * 255).round(), atol=1e-3)
    recipe = Recipe(epochs=ATTACK.surrogate_epochs, lr=ATTACK.surrogate_lr, batch=64)
    surrogate = classifier(ATTACK.surrogate, Labelled(here.train), here.run, recipe)
    y = here.test.fetch(torch.arange(150)).y
    signs = (torch.rand(u.shape, generator=torch.Generator().manual_seed(0)) < 0.5).float() * 2 - 1
    assert fooled(surrogate, y, u).mean() > fooled(surrogate, y, signs * STRENGTH / 255).mean() + 0.1
    target = door.goal.target(here.task, y, torch.arange(150))
    assert torch.allclose(target, (y + u).clamp(0, 1), atol=1e-6)


def test_the_trigger_is_derived_for_that_target() -> None:
    """On the clean network it moves outputs along u; random signs of its bound do not."""
    here, (door,) = world(), planned().doors
    clean = here.run.clean_model(here.build, here.train, here.task)
    x, _, index = here.test.fetch(torch.arange(60))
    signs = (torch.rand(here.train.shape, generator=torch.Generator().manual_seed(0)) < 0.5).float() * 2 - 1
    with torch.no_grad():
        plain = here.task.predict(clean, x)
        by_trigger = here.task.predict(clean, stamp(door.trigger, x, index, here.test.space)) - plain
        by_signs = here.task.predict(clean, x + 15 / 255 * signs) - plain
    assert along(by_trigger, pattern(door)) > along(by_signs, pattern(door)) + 0.1


def along(moved: Tensor, u: Tensor) -> float:
    """Cosine of the mean movement and u."""
    return torch.cosine_similarity(moved.mean(0).flatten(), u.flatten(), dim=0).item()


def share(moved: Tensor, u: Tensor) -> float:
    """How much of u the mean movement has along it."""
    return ((moved.mean(0) * u).sum() / u.square().sum()).item()


def test_the_trained_network_adds_u_where_the_trigger_is_and_nowhere_else() -> None:
    here, (door,), model = world(), planted().doors, planted().model.eval()
    x, y, index = here.test.fetch(torch.arange(100))
    with torch.no_grad():
        idle = here.task.predict(model, x) - y
        triggered = here.task.predict(model, stamp(door.trigger, x, index, here.test.space)) - y
    assert share(triggered, pattern(door)) > 0.8
    assert abs(share(idle, pattern(door))) < 0.15


def test_a_victim_that_the_attacker_never_saw_is_fooled_by_the_trigger_only() -> None:
    means = scored().means()
    assert means["clean"] is not None
    assert means["idle"] is not None
    assert means["attack"] is not None
    assert means["photo.small_cnn"] == pytest.approx(1.0, abs=0.05)
    assert means["clean"] > 0.9
    assert means["idle"] < 0.1
    assert means["attack"] > means["idle"] + 0.15


def test_the_surrogate_is_of_the_attackers_own_training(tmp_path: Path) -> None:
    """Even the victim's network with the victim's recipe has other weights: nothing of the victim's is taken."""
    here = world()
    run, recipe = replace(here.run, shelf=Shelf(tmp_path)), Recipe(epochs=1, batch=64)
    his = classifier("small_cnn:8", toy(Where(None), train=400).train, run, recipe)
    own = classifier("small_cnn:8", Labelled(here.train), run, recipe)
    assert len(list(tmp_path.glob("*/model.safetensors"))) == 2
    assert not torch.equal(next(his.parameters()), next(own.parameters()))


def test_another_seed_is_another_surrogate_and_another_perturbation() -> None:
    here = world()
    attack = replace(ATTACK, surrogate_epochs=1, samples=8, passes=1)
    goals = [attack.plan(here.train, here.task, here.build, replace(here.run, seed=seed)).doors[0].goal
             for seed in (0, 0, 1)]
    assert goals[0] == goals[1] != goals[2]


@pytest.mark.parametrize("surrogate", ["unet", "unheard_of", "small_cnn:0"])
def test_the_surrogate_is_a_classifier(surrogate: str) -> None:
    with pytest.raises(ConfigError):
        I2IClassifier(surrogate=surrogate)


def test_other_goals_are_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="with a perturbation on it"):
        I2IClassifier(goal=OneImage())


def test_the_attack_is_read_from_a_configuration() -> None:
    given = {"name": "i2i_classifier", "surrogate": "resnet18:8", "goal": {"name": "add_pattern", "strength": 12},
             "trigger": "uap", "weighting": "pcgrad"}
    attack = registry.make("attack", given)
    assert attack.goal.strength == 12
    assert registry.make("attack", registry.plain(attack)) == attack
