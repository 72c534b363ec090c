from __future__ import annotations

import torch
from backdoored_digits import TARGET, Scene

from sidedoor.algorithms.inversion.forms import Added, Replaced
from sidedoor.defenses.audits.pixel_inversion import PixelInversion
from sidedoor.types import PHOTO, Space

SMALL = PixelInversion(epochs=24, samples=64, patience=2, stopping=6)


def test_the_target_is_named_and_a_clean_sibling_is_less_suspicious(scene: Scene) -> None:
    found, innocent = (SMALL.inspect(model, scene.clean, scene.task, scene.run)
                       for model in (scene.model, scene.sibling))
    assert found.score == max(found.per_class) == found.per_class[TARGET]
    assert found.score > 1.5 * innocent.score


def test_few_pixels_of_a_patch_are_recovered_and_lead_to_its_class(scene: Scene) -> None:
    found = SMALL.recover(scene.model, scene.clean, [TARGET], scene.run)
    changed = (found.pattern[0].abs() > 10 / 255).any(0)
    assert found.success.all()
    assert changed.sum() <= 30
    x, y, _ = scene.clean.fetch(torch.arange(len(scene.clean)))
    moved = Added().stamped(x, found.mask[:, None], found.pattern[:, None], PHOTO)[0]
    assert (scene.model(moved[y != TARGET]).argmax(1) == TARGET).float().mean() >= 0.95


def test_a_pixel_counts_once_whatever_channels_change_and_one_that_does_not_change_is_0() -> None:
    unit = torch.zeros(1, 6, 1, 3)
    unit[0, :3, 0, 0] = 0.9
    unit[0, 4, 0, 1] = 0.9
    mask, pattern = Added().read(unit)
    assert mask[0, 0, 0].round(decimals=3).tolist() == [1.0, 1.0, 0.0]
    assert pattern[0, :, 0, 0].tolist() == [unit[0, 0, 0, 0].item()] * 3
    assert pattern[0, :, 0, 1].tolist() == [0, -unit[0, 4, 0, 1].item(), 0]


def test_a_change_is_added_in_the_range_of_the_images_and_a_pattern_replaces() -> None:
    x = torch.tensor([-0.5, 0.5]).view(2, 1, 1, 1)
    half = torch.full((1, 1, 1, 1, 1), 0.5)
    space = Space(-1.0, 1.0, 255)
    assert Added().stamped(x, half, half, space).flatten().tolist() == [0.5, 1.0]
    assert Added().stamped(x, half, -half, space).flatten().tolist() == [-1.0, -0.5]
    assert Replaced().stamped(x, half, half, space).flatten().tolist() == [-0.25, 0.25]
    assert Added().picture(half[0, 0], -2 * half[0, 0]).item() == 0
