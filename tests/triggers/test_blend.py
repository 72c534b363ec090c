"""Blending is the weighted mean of image and pattern."""

from __future__ import annotations

import pytest
import torch

from sidedoor.errors import ConfigError
from sidedoor.triggers.blend import Blend

INDEX = torch.arange(4)


def test_a_fifth_of_each_pixel_is_the_pattern() -> None:
    x, pattern = torch.rand(4, 3, 9, 7), torch.rand(3, 9, 7)
    torch.testing.assert_close(Blend(pattern, 0.2)(x, INDEX), 0.8 * x + 0.2 * pattern)


def test_one_channel_serves_all_of_the_image() -> None:
    pattern = torch.rand(1, 5, 5)
    stamped = Blend(pattern, 1.0)(torch.rand(4, 3, 5, 5), INDEX)
    torch.testing.assert_close(stamped, pattern.expand(4, 3, 5, 5))


@pytest.mark.parametrize("shape", [(3, 9, 8), (2, 9, 7)])
def test_a_pattern_of_another_shape_is_refused_with_both_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"9, 7.*height and width"):
        Blend(torch.rand(3, 9, 7))(torch.rand(4, *shape), INDEX)
