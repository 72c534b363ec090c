from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from backdoored_digits import Scene
from torch import nn

from sidedoor import registry
from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.repair._polarizer import Polarizer, place_behind, write_in
from sidedoor.defenses.repair.npd import NPD, others_best, towards_second_best
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.models.base import head

SHAPE = (3, 32, 32)
RUN = Run.local(device="cpu")


@pytest.mark.parametrize("reference", [
    {"name": "resnet18", "width": 4}, {"name": "preact_resnet18", "width": 4}, {"name": "vgg19_bn", "width": 4},
    {"name": "densenet", "depth": 10}, {"name": "cifar_resnet", "depth": 8}, {"name": "vit", "depth": 1, "width": 12},
    {"name": "torchvision", "architecture": "squeezenet1_1"}], ids=lambda reference: reference["name"])
def test_it_starts_as_the_identity_and_becomes_a_part_of_the_model(reference: dict[str, Any]) -> None:
    model = registry.make("model", reference)(10, SHAPE).eval().requires_grad_(False)
    names = model.state_dict().keys()
    clean = ArrayDataset(torch.randint(0, 256, (8, *SHAPE), dtype=torch.uint8), torch.arange(8), 10)
    x = torch.rand(3, *SHAPE)
    nn.init.normal_(head(model).weight)  # a transformer's starts as zero
    usual = model(x)
    place = place_behind(model, SHAPE)
    polarizer = place.insert(model, clean, RUN)
    assert torch.allclose(model(x), usual, atol=1e-4)
    channels = len(polarizer.norm.weight)
    learned = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in learned) == channels**2 + 2 * channels
    for parameter in learned:
        nn.init.normal_(parameter, mean=0.5)
    changed = model(x)
    assert not torch.allclose(changed, usual, atol=1e-2)
    write_in(model, place, polarizer)
    assert model.state_dict().keys() == names
    assert not any(isinstance(module, Polarizer) for module in model.modules())
    assert torch.allclose(model(x), changed, atol=1e-3, rtol=1e-3)


def test_the_layer_removes_the_backdoor_and_all_other_weights_stay(scene: Scene) -> None:
    before = copy.deepcopy(scene.model.state_dict())
    accuracy, attack = scene.numbers(scene.model)
    assert attack > 0.9  # the premise
    repaired = NPD(warmup_steps=0, steps=100, batch=32).repair(scene.model, scene.clean, scene.task, scene.run)
    changed = {name for name, value in repaired.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"body.8.weight", "body.9.running_mean"}
    assert all(torch.equal(before[name], value) for name, value in scene.model.state_dict().items())
    numbers = scene.numbers(repaired)
    assert numbers[1] < attack - 0.3
    assert numbers[0] > accuracy - 0.1


def test_perturbations_lead_to_the_second_best_class_within_the_ball(scene: Scene) -> None:
    x, y, _ = scene.clean.fetch(torch.arange(60))
    model = scene.sibling.eval()
    logits = model(x).detach()
    how = NPD(iterations=6, ball=2.0, step=0.1, enough=1.0)
    moved, wanted = towards_second_best(model, x, y, logits, how, scene.clean.space)
    assert (wanted != y).all()
    assert torch.equal(wanted, others_best(logits, y))
    norms = (moved - x).flatten(1).norm(dim=1)
    assert norms.max() <= 2.0 + 1e-4
    assert norms.max() > 0.5
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert (model(moved).argmax(1) == wanted).float().mean() > (logits.argmax(1) == wanted).float().mean() + 0.3


def test_a_network_without_a_place_is_refused() -> None:
    with pytest.raises(NotApplicable, match="no convolution before its head"):
        place_behind(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 10)), SHAPE)
