"""Warping against SciPy's interpolation, and the size of the displacement."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from sidedoor.triggers.base import stamp
from sidedoor.triggers.warp import Warp, resample
from sidedoor.types import PHOTO


def pixels(warp: Warp) -> np.ndarray:
    """The positions that are read, as (2, height, width) rows and columns."""
    grid = warp.grid.double().numpy()
    height, width = grid.shape[:2]
    return np.stack([(grid[..., 1] + 1) / 2 * (height - 1), (grid[..., 0] + 1) / 2 * (width - 1)])


def control(k: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.rand(2, k, k, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("size", [(32, 32), (28, 20)])
def test_values_are_those_of_scipy_at_the_displaced_positions(size: tuple[int, int]) -> None:
    warp, x = Warp(control(), 2.0, size), torch.rand(3, 2, *size)
    expected = np.stack([[map_coordinates(channel.double().numpy(), pixels(warp), order=1, mode="nearest")
                          for channel in image] for image in x])
    np.testing.assert_allclose(warp(x, torch.arange(3)).numpy(), expected, atol=1e-5)


def test_a_displacement_to_the_right_reads_the_pixel_on_the_right() -> None:
    right = torch.stack([torch.ones(4, 4), torch.zeros(4, 4)])
    x = torch.rand(1, 1, 8, 9)
    # The mean magnitude is 1/2. Positions of -1 to 1 span 8 steps between 9 columns, and strengths are ninths.
    moved = Warp(right, 1 / 2 * 9 * 2 / 8, (8, 9))(x, torch.arange(1))
    torch.testing.assert_close(moved[..., :-1], x[..., 1:])


def test_strength_zero_leaves_stored_images_as_they_are() -> None:
    x = torch.randint(0, 256, (4, 3, 28, 32)) / 255
    assert torch.equal((stamp(Warp(control(), 0.0, (28, 32)), x, torch.arange(4), PHOTO) * 255).round(),
                       (x * 255).round())


def test_the_field_has_no_unit_and_mean_magnitude_one_at_the_control_points() -> None:
    torch.testing.assert_close(Warp(control(), 0.5, (16, 16)).grid, Warp(7 * control(), 0.5, (16, 16)).grid)
    # Without upsampling the field is the control grid itself; a weak one is not cut at the edges' inner points.
    inner = Warp(control(9), 1e-3, (9, 9)).grid - Warp(control(9), 0.0, (9, 9)).grid
    expected = control(9) / control(9).abs().mean() * 1e-3 / 9
    torch.testing.assert_close(inner[1:-1, 1:-1].permute(2, 0, 1), expected[:, 1:-1, 1:-1], atol=1e-7, rtol=0)


def test_positions_stay_within_the_image() -> None:
    assert Warp(control(), 50.0, (16, 16)).grid.abs().max() == 1
    x = torch.ones(1, 1, 16, 16)
    torch.testing.assert_close(resample(x, Warp(control(), 50.0, (16, 16)).grid[None]), x)
