"""Edges are scikit-image's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import feature, filters
from skimage.data import astronaut
from skimage.transform import resize

from sidedoor.errors import ConfigError
from sidedoor.image import edges

PHOTO = resize(astronaut(), (48, 40), anti_aliasing=True).transpose(2, 0, 1)
X = torch.from_numpy(np.stack([PHOTO, PHOTO[:, ::-1].copy()])).float()


@pytest.mark.parametrize("operator", ["sobel", "scharr", "prewitt", "roberts"])
@pytest.mark.parametrize("channels", [1, 3])
def test_strength_is_that_of_scikit_image(operator: str, channels: int) -> None:
    x = X[:, :channels]
    found = edges.strength(x, operator)
    expected = getattr(filters, operator)(edges.grey(x)[1, 0].double().numpy())
    assert found.shape == (2, 1, 48, 40)
    assert np.allclose(found[1, 0].numpy(), expected, atol=1e-6)


def test_canny_is_that_of_scikit_image() -> None:
    expected = feature.canny(edges.grey(X)[0, 0].double().numpy(), sigma=1.0)
    assert expected.any()
    assert np.array_equal(edges.mask(X, "canny", 0.3)[0, 0].numpy(), expected)


def test_a_step_is_found_and_made_wider() -> None:
    x = torch.zeros(1, 1, 9, 9)
    x[..., 5:] = 1.0
    thin = edges.mask(x, "sobel", 28 / 255)[0, 0]
    assert thin.any(0).nonzero()[:, 0].tolist() == [4, 5]
    assert edges.mask(x, "sobel", 28 / 255, width=3)[0, 0].any(0).nonzero()[:, 0].tolist() == [3, 4, 5, 6]
    assert not edges.mask(x * 28 / 255, "sobel", 28 / 255).any()


def test_a_density_finds_as_many_edges_in_the_dark_as_in_the_light() -> None:
    bright = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    dark, flat = 0.02 * bright, torch.full((1, 3, 16, 16), 0.5)
    found = edges.mask(bright, "sobel", 1.0, density=0.25)
    assert torch.equal(found, edges.mask(dark, "sobel", 1.0, density=0.25))
    assert found.flatten(1).sum(1).tolist() == [64, 64, 64, 64]
    steepest = edges.strength(bright, "sobel").flatten(1).topk(64).indices.sort().values
    assert torch.equal(found.flatten(1).nonzero()[:, 1].reshape(4, 64), steepest)
    assert not edges.mask(dark, "sobel", 28 / 255).any()
    assert edges.mask(bright, "sobel", 1.0, density=1.0).flatten(1).sum(1).tolist() == [255] * 4
    assert not edges.mask(flat, "sobel", 0.0, density=0.25).any()


def test_an_unknown_operator_is_said() -> None:
    with pytest.raises(ConfigError, match="edge operator 'laplace'"):
        edges.strength(X, "laplace")
