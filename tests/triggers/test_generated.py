"""A generated trigger replaces the masked part by the drawn pattern, image by image."""

from __future__ import annotations

import pytest
import torch

from sidedoor.triggers.generated import Generated, paint


@pytest.mark.parametrize("shape", [(1, 16, 16), (1, 28, 28), (3, 32, 32), (3, 9, 14)])
def test_masks_and_patterns_fit_images_of_any_shape(shape: tuple[int, int, int]) -> None:
    trigger, x = Generated(shape[0], width=4), torch.rand(2, *shape)
    assert trigger.pattern(x).shape == (2, *shape)
    assert trigger.mask(x).shape == (2, 1, *shape[1:])
    torch.testing.assert_close(trigger(x, torch.arange(2)), paint(x, trigger.mask(x), trigger.pattern(x)))


def test_the_mask_chooses_between_image_and_pattern() -> None:
    x, pattern = torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    painted = paint(x, mask, pattern)
    torch.testing.assert_close(painted[..., :2], pattern[..., :2])
    torch.testing.assert_close(painted[..., 2:], x[..., 2:])


def test_networks_are_frozen_and_each_image_is_drawn_alone() -> None:
    trigger, x = Generated(3, width=4), torch.rand(5, 3, 16, 16)
    assert not any(p.requires_grad for p in trigger.parameters())
    torch.testing.assert_close(trigger(x, torch.arange(5))[2:3], trigger(x[2:3], torch.arange(1)), atol=1e-5, rtol=1e-4)


def test_a_sharpened_mask_is_nearly_binary_around_one_half() -> None:
    sharpen = Generated(1, width=4).mask[1]
    values = sharpen(torch.tensor([0.3, 0.5, 0.7]))
    assert values[0] < 0.001
    assert values[1] == 0.5
    assert values[2] > 0.999
