"""The style of a picture on images: moments of the channels, beside scikit-image."""

from __future__ import annotations

import numpy as np
import torch

from sidedoor.triggers.style import Style

X = torch.rand(4, 3, 12, 10, generator=torch.Generator().manual_seed(0)) * 0.5
PICTURE = torch.rand(3, 12, 10, generator=torch.Generator().manual_seed(1)) * 0.3 + 0.4
INDEX = torch.arange(4)


def test_channels_take_mean_and_deviation_of_the_picture_and_keep_their_structure() -> None:
    styled = Style(PICTURE)(X, INDEX)
    assert torch.allclose(styled.mean((2, 3)), PICTURE.mean((1, 2)).expand(4, -1), atol=1e-5)
    deviation = PICTURE.std((1, 2), correction=0).expand(4, -1)
    assert torch.allclose(styled.std((2, 3), correction=0), deviation, atol=1e-5)
    for before, after in zip(X.flatten(0, 1), styled.flatten(0, 1), strict=True):
        assert np.corrcoef(before.flatten(), after.flatten())[0, 1] > 1 - 1e-6


def test_strength_leads_from_the_image_to_its_styled_version() -> None:
    full = Style(PICTURE)(X, INDEX)
    assert torch.equal(Style(PICTURE, 0.0)(X, INDEX), X)
    assert torch.allclose(Style(PICTURE, 0.25)(X, INDEX), 0.75 * X + 0.25 * full, atol=1e-6)


def test_an_image_of_one_colour_gets_the_mean_colour() -> None:
    flat = Style(PICTURE)(torch.full((1, 3, 12, 10), 0.2), INDEX[:1])
    assert torch.allclose(flat, PICTURE.mean((1, 2))[None, :, None, None].expand_as(flat), atol=1e-3)
