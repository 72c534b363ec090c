from __future__ import annotations

import copy

import torch
from backdoored_digits import Scene
from planted_channel import NORMS, planted, rates
from torch import nn

from sidedoor.algorithms.pruning.gates import add_gates
from sidedoor.defenses.repair.anp import ANP, _Perturbed


def test_a_planted_channel_is_among_the_lowest_masks_and_pruning_removes_the_backdoor(scene: Scene) -> None:
    model, places = planted(scene)
    accuracy, attack = rates(model, scene)
    assert accuracy > 0.85
    assert attack > 0.9  # the premise
    method = ANP(mask_steps=40, batch=32, thresholds=(0.2,), largest_drop=1.0)
    masks = method.masks(model, scene.clean, scene.task, scene.run)
    lowest = torch.cat(list(masks.values())).quantile(0.1)
    own = torch.stack([masks[name][place] for name, place in zip(NORMS, places, strict=True)])
    assert own.min() < lowest
    assert own.min() < 0.2
    repaired_accuracy, repaired_attack = rates(method.repair(model, scene.clean, scene.task, scene.run), scene)
    assert repaired_attack < 0.1
    assert repaired_accuracy > accuracy - 0.1


def test_without_noise_the_loss_is_that_of_the_model(scene: Scene) -> None:
    gated = copy.deepcopy(scene.model).eval()
    gates = add_gates(gated)
    batch = scene.clean.fetch(torch.arange(40))
    usual = scene.task.loss(scene.model.eval(), batch).mean()
    assert torch.allclose(_Perturbed(ANP(epsilon=0.0), gates, scene.task).losses(gated, batch), usual)
    noisy = _Perturbed(ANP(alpha=0.0), gates, scene.task).losses(gated, batch)
    assert noisy > usual + 0.1  # the worst noise, which nothing keeps afterwards
    assert all(gate.noise is None for gate in gates.all())


def test_noise_ascends_from_where_it_was_drawn(scene: Scene) -> None:
    gated = copy.deepcopy(scene.model).eval()
    gates = add_gates(gated)
    batch = scene.clean.fetch(torch.arange(40))
    objective = _Perturbed(ANP(epsilon=0.3, ascent=3), gates, scene.task)
    torch.manual_seed(0)
    noise = torch.cat(objective._worst_noise(gated, batch))
    torch.manual_seed(0)
    drawn = torch.cat([torch.empty_like(gate.mask).uniform_(-0.3, 0.3) for gate in gates.all()])
    parts = [len(gate.mask) for gate in gates.all()]
    losses = []
    for values in (drawn, noise):
        gates.set_noise(torch.split(values, parts))
        losses.append(scene.task.loss(gated, batch).mean().item())
    assert losses[1] > losses[0] + 0.1
    moved = (noise - drawn).abs()
    assert moved.max() <= 0.3 + 1e-6
    assert (moved > 0.29).float().mean() > 0.5  # three steps of a third, most of them one way


def test_masks_stay_within_their_range_and_the_model_given_is_left_alone(scene: Scene) -> None:
    before = copy.deepcopy(scene.model.state_dict())
    masks = ANP(mask_steps=8, lr=5.0, batch=32).masks(scene.model, scene.clean, scene.task, scene.run)
    values = torch.cat(list(masks.values()))
    assert values.min() == 0
    assert values.max() == 1
    assert all(torch.equal(before[k], v) for k, v in scene.model.state_dict().items())
    assert all(isinstance(scene.model.get_submodule(name), nn.BatchNorm2d) for name in masks)
