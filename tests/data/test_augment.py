"""Augmentation moves each image as a whole, by its own draw, and nothing but images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from sidedoor.data.augment import Affine, Chain, Crop, Flip, Jitter, Noise, augmentation
from sidedoor.errors import ConfigError
from sidedoor.types import Batch


@pytest.fixture(autouse=True)
def _seed() -> object:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        yield


def batch(count: int, height: int = 6, width: int = 8, channels: int = 2) -> Batch:
    return Batch(torch.rand(count, channels, height, width) + 0.1, torch.arange(count), torch.arange(count) + 50)


def shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """The image moved over black, pixel by pixel."""
    out = np.zeros_like(image)
    _, height, width = image.shape
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                out[:, row, column] = image[:, row - down, column - right]
    return out


@pytest.mark.parametrize("padding", [1, 2, 3])
def test_crop_shifts_each_image_and_fills_with_black(padding: int) -> None:
    before = batch(40)
    after = Crop(padding)(before)
    steps = range(-padding, padding + 1)
    seen = set()
    for old, new in zip(before.x.numpy(), after.x.numpy(), strict=True):
        matches = [(d, r) for d in steps for r in steps if np.array_equal(new, shifted(old, d, r))]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 5
    assert after.x.is_contiguous()
    assert torch.equal(after.y, before.y)
    assert torch.equal(after.index, before.index)


def test_all_shifts_are_equally_likely() -> None:
    spot = torch.zeros(9000, 1, 5, 5)
    spot[:, :, 2, 2] = 1
    where = Crop(1)(Batch(spot, torch.zeros(9000), torch.arange(9000))).x.flatten(1).argmax(1)
    _, counts = torch.unique(where, return_counts=True)
    assert len(counts) == 9
    assert stats.chisquare(counts.numpy()).pvalue > 0.001


def test_flip_mirrors_about_half_of_the_images() -> None:
    before = batch(1000, channels=1)
    after = Flip()(before)
    kept = (after.x == before.x).flatten(1).all(1)
    mirrored = (after.x == torch.from_numpy(before.x.numpy()[..., ::-1].copy())).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    assert stats.binomtest(int(kept.sum()), 1000).pvalue > 0.001


@pytest.mark.parametrize("augment", [Crop(2), Flip(), Jitter(), Affine(), Chain((Flip(), Crop()))])
def test_the_input_is_left_alone_and_the_draw_follows_torchs_seed(augment: Any) -> None:
    before = batch(30)
    copy = before.x.clone()
    torch.manual_seed(1)
    first = augment(before).x
    assert torch.equal(before.x, copy)
    torch.manual_seed(1)
    assert torch.equal(augment(before).x, first)
    assert not torch.equal(augment(before).x, first)


def test_a_chain_applies_its_steps_in_order() -> None:
    chain = Chain((lambda b: b._replace(x=b.x + 1), lambda b: b._replace(x=b.x * 2)))
    assert chain(Batch(torch.ones(1), torch.ones(1), torch.ones(1))).x.item() == 4


def test_augmentations_of_a_specification() -> None:
    assert augmentation(()) is None
    assert augmentation(("flip", "crop")) == Chain((Flip(), Crop()))
    with pytest.raises(ConfigError, match="unknown augmentation 'flop'; did you mean flip"):
        augmentation(("crop", "flop"))


def test_noise_is_of_a_strength_of_its_own_for_each_image() -> None:
    grey = Batch(torch.full((400, 1, 16, 16), 0.5), torch.zeros(400), torch.arange(400))
    deviation = 255 * (Noise(16.0)(grey).x - 0.5).flatten(1).std(1)
    assert deviation.max().item() == pytest.approx(16, rel=0.1)
    assert deviation.min() < 1
    assert stats.kstest(deviation.numpy() / 16, "uniform").pvalue > 0.001
    bright = Noise(60.0)(grey._replace(x=torch.ones(20, 1, 16, 16))).x
    assert bright.max() == 1


def test_light_changes_in_proportion_and_contrast_about_the_mean() -> None:
    before = batch(500)._replace(x=torch.rand(500, 3, 6, 8) * 0.2 + 0.4)
    after = Jitter(0.2)(before).x
    brightness = after.mean((1, 2, 3)) / before.x.mean((1, 2, 3))
    spread = after.flatten(1).std(1) / before.x.flatten(1).std(1)
    for factor, most in ((brightness, 0.2), (spread / brightness, 0.2)):
        assert stats.kstest((factor - 1 + most).numpy() / (2 * most), "uniform").pvalue > 0.001
    assert Jitter(1.0)(before._replace(x=torch.ones(500, 3, 6, 8))).x.max() == 1


def test_a_picture_is_moved_resized_and_turned_within_the_bounds() -> None:
    spots = torch.zeros(300, 1, 41, 41)
    spots[:, :, 20, 28:31] = 1  # nine pixels to the right of the centre
    rows, columns = torch.arange(41.0)[:, None] - 20, torch.arange(41.0) - 20

    def centres(augment: Affine) -> tuple[Tensor, Tensor]:
        x = augment(Batch(spots, torch.zeros(300), torch.arange(300))).x[:, 0]
        mass = x.sum((1, 2))
        return (x * rows).sum((1, 2)) / mass, (x * columns).sum((1, 2)) / mass

    down, right = centres(Affine(30.0, 0.0, 1.0, 1.0))
    assert torch.allclose((down.square() + right.square()).sqrt(), torch.tensor(9.0), atol=0.2)
    degrees = torch.rad2deg(torch.atan2(down, right))
    assert stats.kstest((degrees.numpy() + 30) / 60, "uniform").pvalue > 0.001
    down, right = centres(Affine(0.0, 0.1, 1.0, 1.0))
    for move in (down, right - 9):
        assert stats.kstest((move.numpy() / 41 + 0.1) / 0.2, "uniform").pvalue > 0.001
    down, right = centres(Affine(0.0, 0.0, 0.8, 1.2))
    assert down.abs().max() < 0.01
    assert stats.kstest((right.numpy() / 9 - 0.8) / 0.4, "uniform").pvalue > 0.001


def test_movements_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"sizes from 0.9 to 0.8 given"):
        Affine(smallest=0.9, largest=0.8)
    with pytest.raises(ConfigError, match="targets are images"):
        Affine()(Batch(torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8), torch.arange(2)))


@pytest.mark.parametrize("name", ["crop", "flip", "affine"])
def test_what_moves_inputs_alone_refuses_boxes(name: str) -> None:
    step = augmentation((name,))
    assert step is not None
    with pytest.raises(ConfigError, match="boxes"):
        step(Batch(torch.rand(2, 6, 8, 8), torch.rand(2, 4), torch.arange(2)))
