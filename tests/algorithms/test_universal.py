"""Perturbations of small classifiers, and what training on them changes."""

from __future__ import annotations

import copy
import functools
from typing import Literal

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from sidedoor.algorithms.adversarial.deepfool import deepfool, deepfool_towards, fooled, predicted
from sidedoor.algorithms.adversarial.pgd import Steps, ascended, pgd
from sidedoor.algorithms.adversarial.training import Robust
from sidedoor.algorithms.adversarial.universal import Universal, smooth
from sidedoor.data.base import Subset
from sidedoor.data.root import Where
from sidedoor.data.sets.digits import digits
from sidedoor.data.sets.toy import toy
from sidedoor.engine import Objective, Recipe, Run
from sidedoor.models.small_cnn import small_cnn
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised
from sidedoor.types import Batch

TASK = Classification(10)
TRAIN, TEST = digits(Where(None))
BOUND = 16.0
"""Levels: what adversarial training of digits withstands."""


@functools.cache
def trained(robust: bool = False) -> nn.Module:
    data = Subset(TRAIN, torch.arange(600))
    objective: Objective = Robust(TASK.loss, epsilon=BOUND, iterations=5) if robust else Supervised(TASK)
    run = Run.local(Recipe(epochs=6, batch=32), device="cpu")
    model = run.build(lambda: small_cnn(10, TRAIN.shape, 8))
    return run.fit(model, data, objective, name="digits").eval()


def held_out() -> Batch:
    return TEST.fetch(torch.arange(300))


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return (predicted(model, x) == y).float().mean().item()


class Linear(nn.Module):
    """Four classes, each a linear function of six values."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.w.T


@functools.cache
def of_stripes() -> nn.Module:
    data = toy(Where(None)).train
    run = Run.local(Recipe(epochs=6, batch=32), device="cpu")
    model = run.build(lambda: small_cnn(4, data.shape, 8))
    return run.fit(model, data, Supervised(Classification(4)), name="stripes").eval()


@pytest.mark.parametrize("inner", ["deepfool", "pgd"])
def test_it_fools_on_unseen_images_and_random_signs_of_its_bound_do_not(inner: Literal["deepfool", "pgd"]) -> None:
    (train, test), epsilon = toy(Where(None)), 64.0
    model, x = of_stripes(), test.fetch(torch.arange(300))
    assert accuracy(model, x.x, x.y) > 0.95
    u = Universal(epsilon, passes=5, inner=inner).make(model, train.fetch(torch.arange(60)).x)
    signs = (torch.rand(u.shape, generator=torch.Generator().manual_seed(0)) < 0.5).float() * 2 - 1
    assert u.abs().max().item() <= epsilon / 255 + 1e-6
    assert fooled(model, x.x, signs * epsilon / 255).mean().item() < 0.05
    assert fooled(model, x.x, u).mean().item() > 0.1


def test_the_search_stops_once_enough_are_fooled() -> None:
    """A pass more than needed would change u."""
    model, images = of_stripes(), toy(Where(None)).train.fetch(torch.arange(30)).x
    once = Universal(64.0, passes=1, inner="pgd").make(model, images)
    share = fooled(model, images, once).mean().item()
    assert share > 0.1
    assert torch.equal(Universal(64.0, passes=3, enough=share, inner="pgd").make(model, images), once)
    assert not torch.equal(Universal(64.0, passes=3, enough=1.0, inner="pgd").make(model, images), once)


def test_on_a_linear_classifier_deepfool_finds_the_distance_to_the_nearest_boundary() -> None:
    model, x = Linear(), torch.rand(50, 1, 2, 3, generator=torch.Generator().manual_seed(1))
    label, own = predicted(model, x), predicted(model, x)
    r = deepfool(model, x, label, overshoot=0.02)
    logits = model(x)
    gaps = logits.gather(1, own[:, None]) - logits
    lengths = (model.w[own][:, None] - model.w).norm(dim=2)
    distance = (gaps / lengths).nan_to_num(torch.inf).scatter(1, own[:, None], torch.inf).amin(1)
    assert torch.allclose(r.flatten(1).norm(dim=1), 1.02 * distance, rtol=1e-3, atol=1e-4)
    assert bool((predicted(model, x + r) != label).all())


def test_deepfool_crosses_on_every_image_with_less_than_sign_steps_that_just_cross() -> None:
    model, (x, _, _) = trained(), held_out()
    label = predicted(model, x)
    r = deepfool(model, x, label)
    signs = pgd(model, x, label, Steps(1.0, 1 / 255, 200, until_crossed=True)) - x
    assert bool((predicted(model, x + r) != label).all())
    crossed = predicted(model, x + signs) != label
    assert crossed.float().mean() > 0.9
    shorter = r.flatten(1).norm(dim=1) < signs.flatten(1).norm(dim=1)
    assert shorter[crossed].float().mean() > 0.95


def test_an_image_already_across_takes_no_step() -> None:
    model, (x, _, _) = trained(), held_out()
    other = (predicted(model, x) + 1) % 10
    assert not deepfool(model, x, other).any()
    assert torch.equal(pgd(model, x, other, Steps(0.1, 0.01, 3, until_crossed=True)), x)


def test_images_are_treated_alone() -> None:
    """Those that cross early do not stop, or drag along, the others of their batch."""
    # In double precision: in single, kernels for one image and for eight differ enough to take another step.
    model, x = copy.deepcopy(trained()).double(), held_out()[0][:8].double()
    label = predicted(model, x)
    alone = torch.cat([deepfool(model, x[i : i + 1], label[i : i + 1]) for i in range(8)])
    assert torch.allclose(deepfool(model, x, label), alone, atol=1e-4)


def test_pgd_stays_within_its_bound_and_in_range() -> None:
    model, (x, y, _) = trained(), held_out()
    how = Steps(0.1, 0.04, 5)
    from_elsewhere = ascended(lambda images: torch.nn.functional.cross_entropy(model(images), y), x, how, x + 0.05)
    for moved in (pgd(model, x, y, how), from_elsewhere):
        assert (moved - x).abs().max().item() <= 0.1 + 1e-6
        assert 0 <= moved.min().item() <= moved.max().item() <= 1
        assert accuracy(model, moved, y) < accuracy(model, x, y) - 0.1


def test_adversarial_training_withstands_what_breaks_the_clean_network() -> None:
    _, (x, y, _) = trained(), held_out()
    how = Steps(BOUND / 255, BOUND / 4 / 255, 10)
    attacked = {robust: accuracy(trained(robust), pgd(trained(robust), x, y, how), y) for robust in (False, True)}
    assert accuracy(trained(True), x, y) > 0.85
    assert attacked[True] > attacked[False] + 0.2


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_search_of_adversarial_training_leaves_no_trace_on_the_model(mode: str) -> None:
    """Only the forward pass that is trained on moves running statistics, and only in training mode."""
    model = getattr(small_cnn(10, TRAIN.shape, 8), mode)()
    batch = TRAIN.fetch(torch.arange(16))
    loss = Robust(TASK.loss, iterations=3).losses(model, batch)
    seen = [int(value) for name, value in model.named_buffers() if "num_batches" in name]
    assert set(seen) == {1 if mode == "train" else 0}
    assert model.training == (mode == "train")
    assert loss.shape == (1,)
    assert loss.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_deepfool_goes_straight_to_the_class_it_is_sent_to() -> None:
    """Between two linear classes the shortest way is along w_b - w_a, as long as the margin over its norm."""
    model = Linear()
    x = torch.randn(20, 1, 2, 3, generator=torch.Generator().manual_seed(1))
    for wanted in range(4):
        label = torch.full((20,), wanted)
        r = deepfool_towards(model, x, label, overshoot=0.0)
        assert (model(x + r).argmax(1) == label).all()
        assert (r.flatten(1).norm(dim=1) == 0).equal(model(x).argmax(1) == label)
    pair = Linear()
    pair.w = model.w[:2]
    own = pair(x).argmax(1)
    margin = (pair(x)[:, 0] - pair(x)[:, 1]).abs() / (pair.w[0] - pair.w[1]).norm()
    assert torch.allclose(deepfool_towards(pair, x, 1 - own, overshoot=0.0).flatten(1).norm(dim=1), margin, atol=1e-4)


def test_a_perturbation_towards_a_class_leads_most_images_there_within_its_bound() -> None:
    model, batch = trained(), held_out()
    batch = Batch(*(part[batch.y != 3] for part in batch))
    bound = 60 / 255
    u = Universal().towards(model, batch.x[:60], 3, lambda u: u.clamp(-bound, bound))
    assert accuracy(model, batch.x, torch.full_like(batch.y, 3)) < 0.1
    assert accuracy(model, (batch.x + u).clamp(0, 1), torch.full_like(batch.y, 3)) > 0.6
    assert u.abs().max() <= bound + 1e-6


def test_smoothing_is_a_gaussian_stretched_to_its_range() -> None:
    u = torch.randn(3, 24, 20, generator=torch.Generator().manual_seed(0))
    low = np.stack([gaussian_filter(plane, 2.0, mode="mirror", radius=5) for plane in u.double().numpy()])
    expected = (low - low.min()) / (low.max() - low.min()) * 0.3
    assert np.allclose(smooth(u, 2.0, 0.3).numpy(), expected, atol=1e-5)
    assert smooth(torch.rand(1, 4, 4), 6.0, 0.2).max() == pytest.approx(0.2)
