"""Colours, reflections and filters against slow or independent arithmetic."""

from __future__ import annotations

import colorsys
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import norm

from sidedoor.errors import ConfigError
from sidedoor.triggers.additive import Additive
from sidedoor.triggers.color import Color, hsv, rgb
from sidedoor.triggers.filter import FILTERS, KNOTS, Filter
from sidedoor.triggers.reflection import Reflection

INDEX = torch.arange(2)


def images(seed: int = 0, channels: int = 3) -> torch.Tensor:
    return torch.rand(2, channels, 12, 16, generator=torch.Generator().manual_seed(seed))


def test_colours_are_converted_as_colorsys_does() -> None:
    x = images()
    x[0, :, 0, 0], x[0, :, 0, 1] = 0.0, 0.7  # black and grey have no hue
    ours = hsv(x).permute(0, 2, 3, 1).reshape(-1, 3)
    theirs = [colorsys.rgb_to_hsv(*pixel) for pixel in x.permute(0, 2, 3, 1).reshape(-1, 3).tolist()]
    assert torch.allclose(ours, torch.tensor(theirs), atol=1e-5)
    assert torch.allclose(rgb(hsv(x)), x, atol=1e-5)


def test_a_shift_of_the_value_keeps_hue_and_saturation() -> None:
    x = images() * 0.8 + 0.05
    moved = hsv(Color((0.0, 0.0, 0.1))(x, INDEX))
    assert torch.allclose(moved[:, :2], hsv(x)[:, :2], atol=1e-4)
    assert torch.allclose(moved[:, 2], hsv(x)[:, 2] + 0.1, atol=1e-5)


def test_a_whole_turn_of_the_hue_changes_nothing() -> None:
    assert torch.allclose(Color((1.0, 0.0, 0.0))(images(), INDEX), images(), atol=1e-5)


def test_noise_outside_the_range_survives_every_trigger() -> None:
    """Noisy inputs leave [0, 1]; what a conversion would lose is put back, and nothing becomes NaN."""
    x = images() * 3 - 1
    for trigger in (Color((0.1, 0.1, 0.1)), Filter("gotham"), Reflection(images(1)[0]),
                    Reflection(images(1)[0], mode="defocus")):
        change = trigger(x, INDEX) - trigger(x.clamp(0, 1), INDEX)
        assert torch.allclose(change, x - x.clamp(0, 1), atol=1e-5)


def test_a_ghost_is_two_reflexes_in_linear_light() -> None:
    x, layer = images(), images(1)[0]
    stamped = Reflection(layer, 0.9, "ghost", (2, 3), 0.7)(x, INDEX).numpy()
    light, seen = x.numpy() ** 2.2, layer.numpy() ** 2.2
    for row, column in ((5, 9), (11, 15), (2, 3)):
        reflex = 0.7 * seen[:, row, column] + 0.3 * seen[:, row - 2, column - 3]
        expected = (0.9 * light[:, :, row, column] + 0.1 * reflex) ** (1 / 2.2)
        assert np.allclose(stamped[:, :, row, column], expected, atol=1e-5)


def test_a_reflex_out_of_focus_is_blurred() -> None:
    layer = images(1)[0]
    ours = Reflection(layer, 0.9, "focus", blur=1.5).layer[0].numpy() / 0.1
    theirs = np.stack([gaussian_filter(plane, 1.5, mode="nearest", radius=3) for plane in layer.numpy() ** 2.2])
    assert np.allclose(ours, theirs, atol=1e-5)


def released_defocus(image: npt.NDArray[Any], scene: npt.NDArray[Any], transmission: float, sigma: float,
                     attenuation: float) -> npt.NDArray[Any]:
    """(c, n, n) by the arithmetic of Refool's release, channel by channel, with edges as `Reflection` has them."""
    light, side = image**2.2, image.shape[1]
    edges = norm.cdf(np.linspace(-3 - 3.5 / side, 3 + 3.5 / side, side + 1))
    mask = np.sqrt(np.outer(np.diff(edges), np.diff(edges)))
    mask *= (1 - transmission / 2) / mask.max()
    planes = []
    for plane, seen in zip(light, scene**2.2, strict=True):
        blurred = gaussian_filter(seen, sigma, mode="nearest", radius=math.ceil(2 * sigma))
        both = blurred + plane
        excess = max(1.0, both[both > 1].mean() if (both > 1).any() else 0.0) - 1
        planes.append(transmission * plane + mask * np.clip(blurred - excess * attenuation, 0, 1))
    return np.clip(np.stack(planes), 0, 1) ** (1 / 2.2)


@pytest.mark.parametrize("brightness", [0.5, 1.0])
def test_a_reflex_as_released_is_darkened_where_it_is_too_bright_and_fades(brightness: float) -> None:
    x, scene = (brightness * torch.rand(2, 3, 17, 17, generator=torch.Generator().manual_seed(k)) ** 0.3
                for k in (0, 1))
    ours = Reflection(scene[0], 0.7, "defocus", blur=1.2)(x, INDEX).numpy()
    for k in range(2):
        expected = released_defocus(x[k].double().numpy(), scene[0].double().numpy(), 0.7, 1.2, 1.13)
        assert np.allclose(ours[k], expected, atol=1e-5)
    # Bright scenes are darkened, dark ones are not.
    linear = scene[0] ** 2.2
    darkened = released_defocus(x[0].numpy(), scene[0].numpy(), 0.7, 1.2, 1.13)
    plain = released_defocus(x[0].numpy(), scene[0].numpy(), 0.7, 1.2, 0.0)
    assert (np.abs(darkened - plain).max() > 0.05) == (bool((linear + x[0] ** 2.2).max() > 1))
    whole = Reflection(torch.ones(3, 9, 17), 0.7, "defocus").mask
    assert whole is not None
    assert whole.max() == whole[4, 8] == pytest.approx(1 - 0.7 / 2)
    assert torch.allclose(whole, Reflection(torch.ones(3, 17, 17), 0.7, "defocus").mask[4:13])  # type: ignore[index]


def test_filters_follow_their_curves() -> None:
    curves, grey, _ = FILTERS["nashville"]
    x = images()
    mixed = (1 - grey) * x + grey * x.mean(1, keepdim=True)
    expected = np.stack([np.interp(mixed[:, k].numpy(), KNOTS, curves[k]) for k in range(3)], 1)
    assert np.allclose(Filter("nashville")(x, INDEX).numpy(), expected, atol=1e-5)


def test_corners_are_darkened_and_the_middle_is_not() -> None:
    flat = torch.full((1, 1, 33, 33), 0.5)
    look = Filter("gotham")(flat, INDEX[:1])[0, 0]
    assert look[0, 0] / look[16, 16] == pytest.approx(0.75, abs=1e-4)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ConfigError, match="unknown filter 'sepia'"):
        Filter("sepia")
    for trigger in (Additive(torch.zeros(3, 8, 8)), Reflection(torch.zeros(3, 8, 8))):
        with pytest.raises(ConfigError, match="cut them to that size"):
            trigger(images(), INDEX)
