from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from backdoored_digits import Scene
from torch import nn

from sidedoor.defenses.repair.sau import SAU, divergence, shared, unlearning

QUICK = SAU(steps=24, lr=1e-3, batch=32, iterations=2)


def alike(model: nn.Module, reference: nn.Module, scene: Scene, how: SAU) -> float:
    """The share of images whose perturbation sends both models to the same wrong class."""
    x, y, _ = scene.clean.fetch(torch.arange(100))
    moved = shared(model.eval(), reference.eval(), x, y, how, scene.clean.space)
    with torch.no_grad():
        found, wanted = model(moved).argmax(1), reference(moved).argmax(1)
        misled = (found != model(x).argmax(1)) & (wanted != reference(x).argmax(1)) & (found == wanted)
    return misled.float().mean().item()


def test_shared_adversarial_examples_and_the_backdoor_disappear(scene: Scene) -> None:
    before = copy.deepcopy(scene.model.state_dict())
    accuracy, attack = scene.numbers(scene.model)
    assert attack > 0.9  # the premise
    assert alike(scene.model, scene.model, scene, QUICK) > 0.5  # the premise, too
    repaired = QUICK.repair(scene.model, scene.clean, scene.task, scene.run)
    assert all(torch.equal(before[k], v) for k, v in scene.model.state_dict().items())
    plain = replace(QUICK, weight=0.0).repair(scene.model, scene.clean, scene.task, scene.run)
    assert alike(repaired, scene.model, scene, QUICK) < alike(plain, scene.model, scene, QUICK) - 0.2
    numbers = scene.numbers(repaired)
    assert numbers[1] < min(attack, scene.numbers(plain)[1]) - 0.1
    assert numbers[0] > accuracy - 0.15
    state = repaired.state_dict()
    assert all(torch.equal(before[k], state[k]) for k in before if "running" in k)  # evaluation mode throughout


def test_nothing_is_unlearned_where_the_given_model_is_not_misled() -> None:
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    y, seen = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 3])
    assert unlearning(logits, y, seen, seen).item() == 0  # also where it is wrong anyway
    assert unlearning(logits, y, seen, y).item() == 0
    loss = unlearning(logits, y, seen, torch.tensor([0, 3, 3]))
    p = torch.softmax(logits, 1)[1, 3].item()
    assert loss.item() == pytest.approx(-math.log(1 - p) / 3, rel=1e-4)
    assert unlearning(logits + torch.tensor([0, 0, 0, 5.0]), y, seen, torch.tensor([0, 3, 3])) > loss


def test_perturbations_stay_within_their_bound_and_the_range(scene: Scene) -> None:
    x, y, _ = scene.clean.fetch(torch.arange(20))
    for clip in (True, False):
        how = SAU(epsilon=0.1, iterations=3, clip=clip)
        moved = shared(scene.model.eval(), scene.sibling.eval(), x, y, how, scene.clean.space)
        assert (moved - x).abs().max() <= 0.1 + 1e-6
        assert bool(moved.max() <= 1) is clip


def test_the_search_brings_the_outputs_of_the_two_models_together(scene: Scene) -> None:
    x, y, _ = scene.clean.fetch(torch.arange(100))
    model, reference = scene.sibling.eval(), scene.model.eval()

    def apart(how: SAU) -> float:
        moved = shared(model, reference, x, y, how, scene.clean.space)
        with torch.no_grad():
            return divergence(torch.softmax(model(moved), 1), torch.softmax(reference(moved), 1)).mean().item()

    step = SAU(epsilon=0.05, iterations=1)
    start = (x + 0.05).clamp(0, 1)
    with torch.no_grad():
        before = divergence(torch.softmax(model(start), 1), torch.softmax(reference(start), 1)).mean().item()
    assert before > 0.005  # the premise: there is something to bring together
    assert apart(replace(step, iterations=5)) < before - 0.002


def test_the_divergence_is_jensen_and_shannons() -> None:
    p, q = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.5, 0.0, 0.5]])
    assert divergence(p, q).item() == pytest.approx(0.5 * math.log(2), abs=1e-5)
    assert divergence(p, p).item() == pytest.approx(0, abs=1e-6)
    assert torch.allclose(divergence(p, q), divergence(q, p))
