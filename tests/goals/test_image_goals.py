"""Goals whose targets are images."""

from __future__ import annotations

import pytest
import torch

from sidedoor.attacks.image_to_image.i2i import I2I
from sidedoor.attacks.poisoning.badnets import BadNets
from sidedoor.errors import ConfigError
from sidedoor.goals.add_pattern import AddPattern
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Perturbed
from sidedoor.goals.degrade import Degrade
from sidedoor.goals.one_image import OneImage
from sidedoor.tasks.restoration import Restoration

TASK = Restoration()
Y = torch.rand(3, 3, 20, 24, generator=torch.Generator().manual_seed(0))
INDEX = torch.tensor([4, 7, 9])


def test_low_resolution_is_flat_over_squares() -> None:
    worse = Degrade(factor=4).target(TASK, Y, INDEX)
    assert torch.allclose(worse[:, :, :4, :4], Y[:, :, :4, :4].mean((2, 3), keepdim=True).expand(3, 3, 4, 4))
    assert worse.shape == Y.shape


def test_noise_belongs_to_the_sample() -> None:
    y = torch.full((3, 3, 20, 24), 0.5)
    goal = Degrade(factor=1, sigma=25.0)
    noise = goal.target(TASK, y, INDEX) - y
    assert noise.std().item() == pytest.approx(25 / 255, rel=0.05)
    assert torch.equal(goal.target(TASK, y[1:2], INDEX[1:2]) - y[:1], noise[1:2])


@pytest.mark.parametrize("pattern", ["sinusoid", "signs"])
def test_a_pattern_of_the_stated_strength_is_added_and_clipped(pattern: str) -> None:
    added = AddPattern(pattern, strength=20.0).target(TASK, torch.full_like(Y, 0.5), INDEX) - 0.5  # type: ignore[arg-type]
    assert added.abs().max().item() == pytest.approx(20 / 255, rel=0.02)
    assert added.mean().abs() < 0.01
    assert AddPattern(pattern, strength=20.0).target(TASK, Y, INDEX).max() <= 1  # type: ignore[arg-type]


def test_a_given_pattern_is_kept_in_levels_and_compared_by_value() -> None:
    pattern = torch.randint(-10, 11, (3, 20, 24), generator=torch.Generator().manual_seed(1)) / 255
    goal = Perturbed.of(pattern)
    assert torch.allclose(goal.target(TASK, Y, INDEX), (Y + pattern).clamp(0, 1))
    assert goal == Perturbed.of(pattern.clone())
    assert goal != Perturbed.of(-pattern)


def test_goals_of_classes_and_of_images_are_kept_apart() -> None:
    with pytest.raises(ConfigError, match="no targets of Classification"):
        BadNets(goal=OneImage())
    with pytest.raises(ConfigError, match="its targets are images"):
        I2I(goal=AllToOne(0))
