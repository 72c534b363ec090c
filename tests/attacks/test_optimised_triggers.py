"""Triggers that are made on a surrogate: what they do to it before anything is poisoned, and how they look."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sidedoor import names
from sidedoor.attacks.lf import LF
from sidedoor.attacks.narcissus import Narcissus
from sidedoor.data.base import Dataset
from sidedoor.data.poisoned import PoisonedDataset
from sidedoor.engine import Recipe, Run, Supervised
from sidedoor.errors import ConfigError
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.multi_target import MultiTarget
from sidedoor.goals.untargeted import Untargeted
from sidedoor.perturb import predicted
from sidedoor.tasks.classification import Classification
from sidedoor.types import PHOTO, Batch, Build, Door, stamp

TASK = Classification(10)
RUN = Run.local(Recipe(epochs=10), seed=0, device="cpu")


@functools.cache
def digits() -> tuple[Dataset, Dataset, Build]:
    train, test = names.load("digits")
    return train, test, names.network({"name": "small_cnn", "width": 8}, train)


@functools.cache
def surrogate() -> nn.Module:
    """As the attacks train it."""
    train, _, build = digits()
    return RUN.fit(RUN.build(build), train, Supervised(TASK), name="surrogate")


def others(label: int) -> Batch:
    """Test images of every class but one."""
    test = digits()[1]
    return test.fetch(torch.nonzero(test.targets != label)[:, 0])


def led(door: Door, label: int) -> tuple[float, float]:
    """Shares of the images of other classes that the surrogate takes for the class: before and after the trigger."""
    x, _, index = others(label)
    images = (x, stamp(door.trigger, x, index, PHOTO))
    before, after = ((predicted(surrogate(), image) == label).float().mean().item() for image in images)
    return before, after


def pattern(door: Door) -> Tensor:
    assert isinstance(door.trigger.pattern, Tensor)
    return door.trigger.pattern


def test_lf_leads_images_to_its_target_by_low_frequencies() -> None:
    train, _, build = digits()
    backdoor = LF(AllToOne(9), strength=0.6, sigma=1.0, enough=0.5).plan(train, TASK, build, RUN)
    before, after = led(backdoor.doors[0], 9)
    assert before < 0.1
    assert after > before + 0.3
    u = pattern(backdoor.doors[0])
    assert (u.min(), u.max()) == pytest.approx((0.0, 0.6))
    # A Gaussian of one pixel leaves exp(-(2π f)²) of the energy at frequency f: less than a hundredth beyond f = 0.35.
    power = np.abs(np.fft.fft2((u - u.mean()).numpy())) ** 2
    down, right = np.meshgrid(*(np.fft.fftfreq(side) for side in u.shape[1:]), indexing="ij")
    assert power[0, np.hypot(down, right) > 0.35].sum() < 0.05 * power.sum()


def test_lf_has_a_perturbation_for_each_class_and_none_without() -> None:
    train, _, build = digits()
    one, two = LF(MultiTarget((1, 2)), samples=20, sigma=1.0).plan(train, TASK, build, RUN).doors
    assert not torch.equal(pattern(one), pattern(two))
    with pytest.raises(ConfigError, match="needs target classes"):
        LF(Untargeted())


def test_narcissus_looks_like_its_target_and_is_magnified_in_tests() -> None:
    train, _, build = digits()
    backdoor = Narcissus(AllToOne(8), rate=0.1, epsilon=30).plan(train, TASK, build, RUN)
    weak, strong = backdoor.doors
    assert (weak.scored, strong.scored) == (False, True)
    assert pattern(weak).abs().max() * 255 == pytest.approx(30, abs=0.01)
    assert torch.equal(pattern(strong), 3 * pattern(weak))
    assert train.targets[backdoor.poison.index].tolist() == [8] * round(0.1 * int((train.targets == 8).sum()))
    assert torch.equal(PoisonedDataset(train, backdoor, TASK).targets, train.targets)
    before, after = led(strong, 8)
    assert before < 0.1
    assert after > 0.6
    assert led(weak, 8)[1] < after
    assert [door.scored for door in Narcissus(magnify=1.0, passes=1).plan(train, TASK, build, RUN).doors] == [True]
