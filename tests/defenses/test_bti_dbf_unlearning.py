from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from backdoored_digits import Scene
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.optim.at import gradients, norm, trained
from sidedoor.defenses.repair.bti_dbf_unlearning import BTIDBFUnlearning, _Unlearning, towards
from sidedoor.triggers.base import stamp

PLACE = "body.10"


class Inverted(nn.Module):
    """Stands for a generator."""

    def forward(self, x: Tensor) -> Tensor:
        return 1 - x


def objective(scene: Scene, rho: float) -> _Unlearning:
    given = [p.detach().clone() for p in scene.model.parameters()]
    return _Unlearning(BTIDBFUnlearning(rho=rho, changed=0.25), Inverted(), PLACE, given)


def test_changed_images_have_their_labels_and_the_features_of_the_images(scene: Scene) -> None:
    batch, model = scene.clean.fetch(torch.arange(20)), copy.deepcopy(scene.sibling).eval().requires_grad_(True)
    loss = objective(scene, 0.0).losses(model, batch)
    with torch.no_grad():
        mixed = torch.cat([1 - batch.x[:5], batch.x[5:]])
        features = model.body[:11]  # type: ignore[index]
        change = features(model.normalize(1 - batch.x[:5])) - features(model.normalize(batch.x[:5]))  # type: ignore[operator]
        expected = functional.cross_entropy(model(mixed), batch.y) + change.square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert change.square().mean() > 1e-3  # the premise


def test_gradients_are_taken_on_the_way_back_to_the_given_weights(scene: Scene) -> None:
    batch, model = scene.clean.fetch(torch.arange(20)), copy.deepcopy(scene.sibling).eval().requires_grad_(True)
    found = gradients(objective(scene, 2.0).losses(model, batch).sum(), trained(model))
    plain = gradients(objective(scene, 0.0).losses(model, batch).sum(), trained(model))
    given = list(scene.model.parameters())
    with torch.no_grad():
        length = torch.cat([p.flatten() for p in given]).norm()
        for parameter, back in zip(model.parameters(), given, strict=True):
            parameter.add_(2.0 * back / length)
    there = gradients(objective(scene, 0.0).losses(model, batch).sum(), trained(model))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(found, there, strict=True))
    assert not torch.allclose(found[0], plain[0], rtol=1e-2)  # the premise
    assert norm(towards(given, 0.5)).item() == pytest.approx(0.5, rel=1e-5)


def test_what_the_generator_makes_is_unlearned_and_the_model_given_stays(
        scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the generator stamps the trigger itself; the search has tests of its own."""
    class Stamps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return stamp(scene.door.trigger, x, torch.zeros(len(x), dtype=torch.long), scene.clean.space)

    monkeypatch.setattr(BTIDBFUnlearning, "_inverted", lambda *_: (Stamps(), PLACE))
    before = copy.deepcopy(scene.model.state_dict())
    accuracy, attack = scene.numbers(scene.model)
    assert attack > 0.9  # the premise
    method = BTIDBFUnlearning(rounds=1, unlearning_steps=60, batch=24)
    repaired = method.repair(scene.model, scene.clean, scene.task, replace(scene.run, history={}))
    assert all(torch.equal(before[name], value) for name, value in scene.model.state_dict().items())
    numbers = scene.numbers(repaired)
    assert numbers[1] < 0.5
    assert numbers[0] > accuracy - 0.1
