"""The simulated print and photograph: each step beside an independent source, and how draws are keyed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.transform import ProjectiveTransform, warp
from torch import Tensor, nn

from sidedoor.data import print_capture
from sidedoor.data.base import ArrayDataset
from sidedoor.data.jpeg import compressed
from sidedoor.data.print_capture import PrintCapture, balanced, blurred, lit, noisy, photographed, printed, resampled
from sidedoor.data.root import Where
from sidedoor.data.sets.toy import toy
from sidedoor.defenses.purifiers.brightness import Brightness
from sidedoor.defenses.purifiers.print_capture import PrintCapture as Camera
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.image.geometry import projected
from sidedoor.tasks.classification import Classification
from sidedoor.types import Batch

X = torch.rand(6, 3, 20, 24, generator=torch.Generator().manual_seed(0))
INDEX = torch.arange(6)
SQUARE = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])


def pictures(channels: int = 3) -> Tensor:
    return toy(Where(None), test=16).test.fetch(torch.arange(8)).x[:, :channels]


@pytest.mark.parametrize("channels", [1, 3])
def test_more_strength_changes_more_and_none_nothing(channels: int) -> None:
    x, index = pictures(channels), torch.arange(8)
    assert torch.equal(photographed(x, index, 7, 0.0), x)
    made = [photographed(x, index, 7, strength) for strength in (0.1, 0.25, 0.5, 1.0)]
    loss = [(each - x).square().mean().item() for each in made]
    assert loss[0] > 0
    assert loss == sorted(loss)
    assert all(each.shape == x.shape and each.min() >= 0 and each.max() <= 1 for each in made)


def test_a_photograph_belongs_to_seed_and_index() -> None:
    x, index, order = pictures(), torch.arange(8), torch.tensor([5, 0, 3])
    whole = photographed(x, index, 7)
    torch.testing.assert_close(photographed(x[order], index[order], 7), whole[order])
    for other in (photographed(x, index, 8), photographed(x, index + 8, 7)):
        assert (other != whole).flatten(1).any(1).all()


def test_a_picture_seen_from_the_side_is_scikit_images() -> None:
    corners = SQUARE + 0.1 * torch.tensor([[1.0, -1], [-2, 0.5], [0, 1], [2, -1]])
    made = projected(X[:1], corners[None])[0, 0].numpy()
    pixel = np.array([12.0, 10.0])  # half of the width and of the height
    there, here = ((c.numpy() + 1) * pixel - 0.5 for c in (corners, SQUARE))
    expected = warp(X[0, 0].numpy(), ProjectiveTransform.from_estimate(there, here), order=1, mode="edge")
    assert np.allclose(made, expected, atol=1e-4)
    assert torch.allclose(projected(X, SQUARE.expand(6, -1, -1)), X, atol=1e-5)


def test_blur_is_scipys_and_each_image_has_its_own() -> None:
    made = blurred(X, torch.tensor([0.0, 0.5, 0.8, 1.0, 1.2, 0.3]))
    assert torch.equal(made[0], X[0])
    expected = gaussian_filter(X[4, 1].numpy(), 1.2, mode="nearest", radius=4)
    assert np.allclose(made[4, 1].numpy(), expected, atol=1e-5)


def test_noise_has_the_variance_of_a_sensor() -> None:
    noise = torch.randn(1, 1, 300, 300, generator=torch.Generator().manual_seed(0))
    for level in (0.2, 0.8):
        flat = torch.full((1, 1, 300, 300), level)
        assert (noisy(flat, noise) - flat).var().item() == pytest.approx(0.002 * level + 1e-4, rel=0.03)
        assert (noisy(flat, noise, 0.5) - flat).std().item() == pytest.approx((0.002 * level + 1e-4)**0.5 / 2, rel=0.03)


def test_ink_is_less_saturated_and_its_black_is_not_black() -> None:
    assert printed(torch.zeros(1, 3, 2, 2), 0.9, 0.02).mean().item() == pytest.approx(0.02**(1 / 2.2))
    red = torch.tensor([1.0, 0, 0])[None, :, None, None]
    made = printed(red, 0.9, 0.0)[0, :, 0, 0]**2.2
    assert torch.allclose(made, torch.tensor([0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3]), atol=1e-5)


def test_light_stays_within_its_gain_and_is_uneven() -> None:
    grey = torch.full((200, 1, 16, 16), 0.5)
    gain = lit(grey, torch.rand(200, 6, generator=torch.Generator().manual_seed(0)), 0.3) / grey
    assert 0.7 <= gain.min() < 0.75
    assert 1.25 < gain.max() <= 1.3
    assert (gain.amax((1, 2, 3)) - gain.amin((1, 2, 3)) > 0.05).all()


def test_fewer_pixels_lose_detail_of_those_images_only() -> None:
    made = resampled(X, torch.tensor([1.0, 0.5, 0.7, 1, 0.5, 1]))
    assert [torch.equal(a, b) for a, b in zip(made, X, strict=True)] == [True, False, False, True, False, True]
    assert (made.std((1, 2, 3)) < X.std((1, 2, 3)))[[1, 2, 4]].all()


def test_each_file_has_its_own_quality() -> None:
    made = compressed(X, torch.tensor([20, 95, 20, 60, 60, 60]))
    assert torch.equal(made[2], compressed(X[2:3], 20)[0])
    assert torch.equal(made[1], compressed(X, 95)[1])
    assert not torch.equal(made[2], compressed(X, 95)[2])


def test_grey_images_have_no_white_balance() -> None:
    gains = torch.tensor([[2.0, 1, 0.5]])
    assert torch.equal(balanced(X[:1, :1], gains), X[:1, :1])
    assert torch.allclose(balanced(X[:1] / 2, gains).mean((0, 2, 3)) / X[:1].mean((0, 2, 3)),
                          torch.tensor([1.0, 0.5, 0.25]), atol=1e-5)


def test_training_takes_every_photograph_afresh() -> None:
    batch, camera = Batch(X, INDEX % 2, INDEX), PrintCapture(0.5)
    torch.manual_seed(0)
    first, second = camera(batch), camera(batch)
    torch.manual_seed(0)
    assert torch.equal(camera(batch).x, first.x)
    assert not torch.equal(first.x, second.x)
    assert torch.equal(first.y, batch.y)
    with pytest.raises(ConfigError, match="targets are images"):
        camera(Batch(X, X, INDEX))


def test_as_a_test_condition_it_is_the_same_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    run, data = Run.local(device="cpu"), ArrayDataset(torch.zeros(2, 3, 20, 24, dtype=torch.uint8), [0, 1], 2)
    seed = run.rng("photographs").initial_seed()
    made, _ = Camera(0.5).fit(nn.Identity(), data, Classification(2), run)(X, INDEX)
    assert torch.equal(made, photographed(X, INDEX, seed, 0.5))
    assert not torch.equal(made, photographed(X, INDEX, seed, 1.0))
    assert print_capture.__doc__ is not None
    assert print_capture.__doc__.startswith("Simulated")


def test_brightness_changes_each_image_by_one_factor() -> None:
    data = ArrayDataset(torch.zeros(2, 3, 20, 24, dtype=torch.uint8), [0, 1], 2)
    made, _ = Brightness(0.2).fit(nn.Identity(), data, Classification(2), Run.local(device="cpu"))(X / 2, INDEX)
    factor = (made / (X / 2)).flatten(1)
    assert torch.allclose(factor, factor[:, :1].expand_as(factor), atol=1e-4)
    assert factor.min() >= 0.8 - 1e-4
    assert factor.max() <= 1.2 + 1e-4
    assert factor[:, 0].std() > 0.02
