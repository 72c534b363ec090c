"""The image-to-image backdoor on patches of moments: it takes, costs little, and starts where it says."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from torch import nn

from sidedoor.attacks.image_to_image.base import BothTasks
from sidedoor.attacks.image_to_image.i2i import I2I
from sidedoor.backdoor.base import AttackerRun, Planted
from sidedoor.data.base import Dataset, Subset
from sidedoor.data.root import Where
from sidedoor.data.sets.photos import photos
from sidedoor.engine import Recipe
from sidedoor.evaluation import evaluate
from sidedoor.goals.one_image import OneImage
from sidedoor.models.unet import unet
from sidedoor.multitask.pcgrad import PCGrad
from sidedoor.multitask.static import Static
from sidedoor.tasks.restoration import Restoration
from sidedoor.trigger_designs.random_sign import RandomSign
from sidedoor.triggers.base import stamp

TASK = Restoration(sigma=10.0)
RECIPE = Recipe("adam", lr=3e-3, weight_decay=0.0, schedule="cosine", epochs=20, batch=16)
ATTACK = I2I(trigger=RandomSign(60.0), epochs=30, lr=3e-3, schedule="cosine")


def some(data: Dataset, count: int) -> Dataset:
    return TASK.make_dataset(Subset(data, torch.arange(count) * len(data) // count))


@functools.cache
def parts() -> tuple[Dataset, Dataset]:
    train, test = photos(Where(None), 16)
    return some(train, 160), some(test, 60)


def build() -> nn.Module:
    return unet((3, 16, 16), 1, width=8)


def run() -> AttackerRun:
    return AttackerRun.local(RECIPE, device="cpu")


@functools.cache
def planted(attack: I2I = ATTACK) -> tuple[Planted, nn.Module]:
    here = run()
    backdoor = attack.plan(parts()[0], TASK, build, here)
    assert backdoor.train is not None
    return backdoor.train(parts()[0], TASK, build, here), here.clean_model(build, parts()[0], TASK)


def test_triggered_inputs_become_the_picture_and_others_do_not() -> None:
    delivered, clean = planted()
    scores = evaluate(delivered.model, parts()[1], TASK, delivered.doors, run()).means()
    honest = evaluate(clean, parts()[1], TASK, delivered.doors, run()).means()
    assert scores["attack"] is not None
    assert honest["attack"] is not None
    assert scores["clean"] is not None
    assert honest["clean"] is not None
    assert scores["idle"] is not None
    assert honest["attack"] < 0.3  # the premise: a clean network does not paint it
    assert scores["attack"] > 0.45
    assert scores["idle"] < 0.3
    assert scores["clean"] > honest["clean"] - 0.1


def test_the_clean_network_is_not_the_one_that_is_changed() -> None:
    delivered, clean = planted()
    again = run().clean_model(build, parts()[0], TASK)
    assert all(torch.equal(p, q) for p, q in zip(clean.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(clean.parameters(), delivered.model.parameters(), strict=True))


def test_from_scratch_no_clean_network_is_needed() -> None:
    here = replace(run(), known=lambda: pytest.fail("a clean network was asked for"))
    attack = replace(ATTACK, epochs=1, start="scratch")
    train = attack.plan(parts()[0], TASK, build, here).train
    assert train is not None
    train(parts()[0], TASK, build, here)


def test_both_losses_are_those_of_equations_4_and_5() -> None:
    train = parts()[0]
    door = planted()[0].doors[0]
    batch = train.fetch(torch.arange(4))
    losses = BothTasks(TASK, door, train.space, PCGrad().start(2)).losses(nn.Identity(), batch)
    stamped = stamp(door.trigger, batch.x, batch.index, train.space)
    target = OneImage().target(TASK, batch.y, batch.index)
    expected = [(batch.x - batch.y).square().mean(), (stamped - target).square().mean()]
    assert torch.allclose(torch.stack(losses), torch.stack(expected))


def test_a_weight_of_nothing_plants_nothing() -> None:
    delivered, _ = planted(replace(ATTACK, weighting=Static((1.0, 0.0)), epochs=3))
    scores = evaluate(delivered.model, parts()[1], TASK, delivered.doors, run()).means()
    assert scores["attack"] is not None
    assert scores["attack"] < 0.3
