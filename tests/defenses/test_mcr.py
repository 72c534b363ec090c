from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from backdoored_digits import Scene
from torch import nn

from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.repair.mcr import MCR, _Curve, _measure_statistics, _weights, between
from sidedoor.engine import Run
from sidedoor.models.base import classifier
from sidedoor.tasks.task import Supervised


def test_the_curve_by_hand() -> None:
    one, bend, two = ({"w": torch.tensor([value])} for value in (1.0, 10.0, 3.0))
    for t, expected in ((0.0, 1.0), (1.0, 3.0), (0.5, 0.25 + 5.0 + 0.75), (0.1, 0.81 + 1.8 + 0.03)):
        assert between(one, bend, two, t)["w"].item() == pytest.approx(expected)


def test_its_ends_are_the_given_model_and_the_fine_tuned_one(scene: Scene) -> None:
    first = MCR(place=0.0, end_steps=4, steps=4).repair(scene.model, scene.clean, scene.task, scene.run)
    last = MCR(place=1.0, end_steps=4, steps=4).repair(scene.model, scene.clean, scene.task, scene.run)
    tuned = MCR()._trained(copy.deepcopy(scene.model), scene.clean, Supervised(scene.task), scene.run, "end", 4)
    for name, parameter in scene.model.named_parameters():
        assert torch.equal(dict(first.named_parameters())[name], parameter), name
        torch.testing.assert_close(dict(last.named_parameters())[name], dict(tuned.named_parameters())[name])
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), last.parameters(), strict=True))
    assert scene.numbers(first)[0] > 0.95  # its statistics were measured anew


def test_training_the_bend_lowers_the_loss_along_the_curve(scene: Scene) -> None:
    torch.manual_seed(0)
    first = _weights(scene.model)
    last = _weights(scene.sibling)
    bend = copy.deepcopy(scene.model).requires_grad_(True)
    with torch.no_grad():
        for name, parameter in bend.named_parameters():
            parameter.copy_((first[name] + last[name]) / 2)
    objective, batch = _Curve(scene.task, first, last), scene.clean.fetch(torch.arange(201))

    def along() -> float:
        torch.manual_seed(1)
        with torch.no_grad():
            return sum(objective.losses(bend.train(), batch).item() for _ in range(8)) / 8

    before, ends = along(), (copy.deepcopy(first), copy.deepcopy(last))
    recipe = replace(scene.run.recipe, epochs=10, batch=50, lr=0.02, schedule="constant")
    scene.run.fit(bend, scene.clean, objective, name="curve", recipe=recipe)
    assert along() < 0.9 * before
    assert all(torch.equal(first[name], ends[0][name]) and torch.equal(last[name], ends[1][name]) for name in first)


def test_statistics_are_those_of_the_clean_samples() -> None:
    images = torch.randint(0, 256, (40, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    clean = ArrayDataset(images, [0, 1] * 20, 2)
    model = classifier(nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, 2)), 2, 1)
    layer = model.body[0]  # type: ignore[index]
    layer.running_mean.fill_(9.0)
    _measure_statistics(model, clean, Run.local(device="cpu"))
    seen = (images.float() / 255 - 0.5) / 0.25
    assert layer.running_mean.item() == pytest.approx(seen.mean().item(), abs=1e-5)
    assert layer.running_var.item() == pytest.approx(seen.var().item(), rel=0.02)
    assert layer.momentum == 0.1
