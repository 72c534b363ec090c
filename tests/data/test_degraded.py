"""Pairs for restoration: whose noise it is, when it is drawn afresh, and what the inputs are."""

from __future__ import annotations

import math

import pytest
import torch

from sidedoor.core import random
from sidedoor.data.base import ArrayDataset, Subset, split
from sidedoor.data.degraded import Degradation, Degraded
from sidedoor.errors import ConfigError
from sidedoor.metrics.image_quality import psnr
from sidedoor.types import MEASUREMENT, PHOTO

ROWS = torch.arange(12)


def photographs(side: int = 32) -> ArrayDataset:
    pixels = torch.randint(0, 256, (12, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    large = pixels.repeat_interleave(side // 4, 2).repeat_interleave(side // 4, 3)
    return ArrayDataset(large, ROWS % 3, 3, groups=ROWS // 2)


def test_noise_has_the_stated_deviation_and_is_not_clipped() -> None:
    pairs = Degraded(photographs(), Degradation(25, 1, stored=False))
    x, y, _ = pairs.fetch(ROWS)
    assert torch.equal(y, photographs().fetch(ROWS).x)
    assert (x - y).std().item() == pytest.approx(25 / 255, rel=0.01)
    assert (x - y).mean().item() == pytest.approx(0, abs=1e-3)
    assert pairs.space == MEASUREMENT
    assert bool((x < 0).any() and (x > 1).any())


def test_stored_inputs_are_files_of_8_bits() -> None:
    pairs = Degraded(photographs(), Degradation(25, 1, stored=True))
    x = pairs.fetch(ROWS).x
    assert pairs.space == PHOTO
    assert bool((x >= 0).all() and (x <= 1).all())
    assert (x * 255 - (x * 255).round()).abs().max() < 1e-4


def test_evaluation_sees_the_same_noise_in_any_batch_and_training_fresh_noise_each_epoch() -> None:
    pairs = Degraded(photographs(), Degradation(25, 1, stored=False))
    whole = pairs.fetch(ROWS).x
    assert torch.equal(pairs.fetch(ROWS[[7, 2]]).x, whole[[7, 2]])
    first, second = (pairs.at(epoch).fetch(ROWS).x for epoch in (0, 1))
    assert torch.equal(pairs.at(0).fetch(ROWS[[5]]).x, first[[5]])
    noise = [x - pairs.fetch(ROWS).y for x in (whole, first, second)]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        correlation = torch.corrcoef(torch.stack([noise[a].flatten(), noise[b].flatten()]))[0, 1]
        assert abs(correlation) < 0.02


def test_a_subset_keeps_the_noise_of_its_rows() -> None:
    pairs = Degraded(photographs(), Degradation(25, 1, stored=False))
    part = Subset(pairs, torch.tensor([3, 9]))
    rows = torch.arange(2)
    assert torch.equal(part.fetch(rows).x, pairs.fetch(torch.tensor([3, 9])).x)
    assert torch.equal(part.at(4).fetch(rows).x, pairs.at(4).fetch(torch.tensor([3, 9])).x)
    before = Degraded(Subset(photographs(), torch.tensor([3, 9])), Degradation(25, 1, stored=False))
    assert torch.equal(before.fetch(rows).x, part.fetch(rows).x)


def test_low_resolution_inputs_are_small_8_bit_photographs() -> None:
    pairs = Degraded(photographs(), Degradation(0, 2, stored=False))
    x, y, _ = pairs.fetch(ROWS)
    assert pairs.shape == (3, 16, 16)
    assert x.shape == (12, 3, 16, 16)
    assert y.shape == (12, 3, 32, 32)
    assert pairs.space == PHOTO
    assert (x * 255 - (x * 255).round()).abs().max() < 1e-4
    # The photographs are squares of 8 pixels, so the middle of each survives.
    assert psnr(x[:, :, 2::4, 2::4], y[:, :, 4::8, 4::8]).min() > 25


def test_a_scale_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="32×32 given; expected sides that the scale 3 divides"):
        Degraded(photographs(), Degradation(0, 3, stored=False))


def test_patches_of_one_photograph_stay_together_when_a_set_is_split() -> None:
    rest, cut = split(photographs(), 0.3, 0)
    assert rest.groups is not None
    assert cut.groups is not None
    assert not set(rest.groups.tolist()) & set(cut.groups.tolist())
    assert len(set(cut.groups.tolist())) == 2


def test_keyed_normal_numbers_are_normal_and_belong_to_their_sample() -> None:
    sample = random.normal(3, torch.arange(40), 5001)
    assert sample.shape == (40, 5001)
    assert torch.equal(random.normal(3, torch.tensor([17]), 5001)[0], sample[17])
    values = sample.flatten()
    assert values.mean().abs() < 0.01
    assert values.std().item() == pytest.approx(1, abs=0.01)
    assert (values < 1.0).float().mean().item() == pytest.approx((1 + math.erf(1 / math.sqrt(2))) / 2, abs=0.005)
    assert (values.pow(4).mean() / values.var() ** 2).item() == pytest.approx(3, abs=0.1)
    halves = torch.corrcoef(torch.stack([sample[:, :2500].flatten(), sample[:, 2501:].flatten()]))[0, 1]
    assert abs(halves) < 0.02
