from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from backdoored_digits import Scene
from torch import nn

from sidedoor.algorithms.optim.at import norm
from sidedoor.algorithms.short_training import for_steps
from sidedoor.defenses.repair.ft_sam import FTSAM, _SharpnessAware, adaptive
from sidedoor.tasks.task import Supervised


def test_without_a_perturbation_it_is_fine_tuning_bit_for_bit(scene: Scene) -> None:
    """Running statistics too: the second pass leaves them where the first one left them."""
    run = replace(scene.run, history={})
    tuned = FTSAM(rho=0.0, smoothing=0.0, steps=8).repair(scene.model, scene.clean, scene.task, run)
    recipe = for_steps(run, scene.clean, 8, 64, optimizer="sgd", lr=0.01, momentum=0.9, weight_decay=5e-4,
                       schedule="cosine")
    plain, plain_run = copy.deepcopy(scene.model), replace(scene.run, history={})
    plain_run.fit(plain, scene.clean, Supervised(scene.task), name="sharpness-aware", recipe=recipe)
    state = plain.state_dict()
    assert all(torch.equal(state[name], value) for name, value in tuned.state_dict().items())
    assert run.history["sharpness-aware"][0]["loss"] == pytest.approx(plain_run.history["sharpness-aware"][0]["loss"])
    given = scene.model.state_dict()
    assert not torch.equal(given["body.1.running_mean"], state["body.1.running_mean"])  # the premise


def test_the_perturbation_has_the_adaptive_norm_rho_and_ascends() -> None:
    torch.manual_seed(0)
    weights, slopes = [torch.randn(4, 3), torch.randn(5)], [torch.randn(4, 3), torch.randn(5)]
    shift = adaptive(weights, slopes, 1.7)
    assert norm([s / w.abs() for s, w in zip(shift, weights, strict=True)]).item() == pytest.approx(1.7, rel=1e-4)
    expected = [w.square() * g for w, g in zip(weights, slopes, strict=True)]
    for found, along in zip(shift, expected, strict=True):
        assert torch.allclose(found / found.norm(), along / along.norm())
        assert (found * along).sum() > 0
    ratio = shift[0].norm() / shift[1].norm()
    assert ratio.item() == pytest.approx((expected[0].norm() / expected[1].norm()).item(), rel=1e-4)


@pytest.mark.parametrize(("smoothing", "classes"), [(0.1, 10), (0.3, 4), (0.0, 4)])
def test_smoothing_goes_to_the_other_classes(scene: Scene, smoothing: float, classes: int) -> None:
    logits = torch.randn(1, classes, generator=torch.Generator().manual_seed(0))
    target = torch.full((classes,), smoothing / (classes - 1))
    target[2] = 1 - smoothing
    batch = scene.clean.fetch(torch.arange(1))._replace(x=logits, y=torch.tensor([2]))
    loss = _SharpnessAware(FTSAM(smoothing=smoothing))._loss(nn.Identity(), batch)
    assert loss.item() == pytest.approx(-(target * torch.log_softmax(logits, 1)[0]).sum().item(), rel=1e-5)


def test_it_removes_more_of_the_backdoor_than_as_many_steps_of_fine_tuning(scene: Scene) -> None:
    accuracy, attack = scene.numbers(scene.model)
    assert attack > 0.9  # the premise
    tuned = {rho: scene.numbers(FTSAM(rho=rho, steps=120, batch=24).repair(
        scene.model, scene.clean, scene.task, scene.run)) for rho in (0.0, 2.0)}
    assert tuned[2.0][1] < tuned[0.0][1] - 0.2
    assert tuned[2.0][0] > accuracy - 0.05
