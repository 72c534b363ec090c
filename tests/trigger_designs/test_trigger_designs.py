"""How triggers for restoration networks are arrived at."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from sidedoor.data.root import Where
from sidedoor.data.sets.photos import photos
from sidedoor.engine import Recipe, Run
from sidedoor.goals.one_image import OneImage
from sidedoor.tasks.restoration import Restoration
from sidedoor.tasks.task import Supervised
from sidedoor.trigger_designs.base import Setting
from sidedoor.trigger_designs.corner_patch import CornerPatch
from sidedoor.trigger_designs.gaussian import Gaussian
from sidedoor.trigger_designs.matched_noise import MatchedNoise
from sidedoor.trigger_designs.random_sign import RandomSign
from sidedoor.trigger_designs.uap import UAP
from sidedoor.triggers.base import Trigger
from sidedoor.types import Batch

TASK = Restoration(sigma=25.0)
GOAL = OneImage()
RUN = Run.local(Recipe("adam", lr=3e-3, weight_decay=0.0, epochs=1, batch=16), device="cpu")


def build() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(16, 3, 3, padding=1))


@functools.cache
def setting() -> Setting:
    """A denoiser of moments; what it does to held-out patches is what counts."""
    splits = photos(Where(None), 32)
    train = TASK.make_dataset(splits.train)
    model = RUN.fit(RUN.build(build), train, Supervised(TASK), name="clean")
    return Setting(train, TASK, GOAL, lambda: model, RUN)


def distance(trigger: Trigger | None) -> float:
    """L_t on held-out patches."""
    test = TASK.make_dataset(photos(Where(None), 32).test)
    x, y, index = test.fetch(torch.arange(64))
    stamped = x if trigger is None else trigger(x, index)
    with torch.no_grad():
        output = setting().model()(stamped)
    return torch.linalg.vector_norm((output - GOAL.target(TASK, y, index)).flatten(1), dim=1).mean().item()


def pattern(trigger: Trigger) -> Tensor:
    return trigger.get_buffer("pattern")


def test_the_perturbation_leads_a_clean_network_towards_the_target() -> None:
    """Noise of the same bound or the same energy does not; the perturbation alone only biases the output."""
    here, without = setting(), distance(None)
    gained = without - distance(UAP().make(here))
    chance = [abs(without - distance(control.make(here))) for control in (RandomSign(), MatchedNoise())]
    assert gained > 0.1
    assert gained > 3 * max(chance)


def test_the_perturbation_keeps_to_its_bound_and_fills_it() -> None:
    found = pattern(UAP().make(setting())) * 255
    assert found.abs().max() <= 15 + 1e-3
    assert (found.abs() > 9.9).float().mean() > 0.5


def test_the_network_is_left_as_it_was() -> None:
    model = setting().model()
    before = [(p.clone(), p.grad.clone()) for p in model.parameters() if p.grad is not None]
    UAP(samples=1, iterations=2).make(setting())
    after = [(p, p.grad) for p in model.parameters()]
    assert all(torch.equal(p, q) and g is not None and torch.equal(g, h)
               for (p, g), (q, h) in zip(after, before, strict=True))


def test_several_images_are_attacked_by_the_first() -> None:
    class Stages(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = setting().model()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.body(x), x

    here = setting()
    one = UAP(samples=1, iterations=3).make(here)
    other = UAP(samples=1, iterations=3).make(Setting(here.train, TASK, GOAL, Stages, RUN))
    assert torch.equal(pattern(one), pattern(other))


def test_matched_noise_has_the_energy_of_the_perturbation() -> None:
    uap, noise = (pattern(design.make(setting())) for design in (UAP(), MatchedNoise()))
    assert noise.square().mean().item() == pytest.approx(uap.square().mean().item(), rel=1e-4)
    assert abs(torch.corrcoef(torch.stack([uap.flatten(), noise.flatten()]))[0, 1]) < 0.05


def test_gaussian_noise_is_one_draw_of_the_stated_deviation() -> None:
    noise = pattern(Gaussian().make(setting()))
    assert noise.std().item() * 255 == pytest.approx(20, rel=0.05)


def test_the_patch_is_a_share_of_the_image() -> None:
    patched = CornerPatch().make(setting())(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.int64))
    assert torch.equal(torch.nonzero(patched[0, 0]).amax(0), torch.tensor([3, 3]))


def test_another_seed_makes_another_trigger() -> None:
    here = setting()
    for design in (RandomSign(), Gaussian(), UAP(samples=1, iterations=1)):
        other = Setting(here.train, TASK, GOAL, here.model, Run.local(seed=1, device="cpu"))
        assert not torch.equal(pattern(design.make(here)), pattern(design.make(other)))


def test_targets_come_in_the_size_of_inputs() -> None:
    task = Restoration(sigma=0.0, scale=2)
    train = task.make_dataset(photos(Where(None), 32).train)
    here = Setting(train, task, GOAL, build, RUN)
    assert here.target().shape == (1, 3, 16, 16)
    batch: Batch = train.fetch(torch.arange(1))
    assert GOAL.target(task, batch.y, batch.index).shape == (1, 3, 32, 32)
