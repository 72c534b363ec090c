from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from sidedoor.core import random
from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.purifiers.denoise_restore import DenoiseRestore
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.tasks.classification import Classification


def test_degradation_is_the_mean_of_squares_under_noise() -> None:
    x = torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(1))
    flat = DenoiseRestore(factor=2, sigma=0).degraded(x, noise)
    torch.testing.assert_close(flat[..., 3, 2], x[..., 2:4, 2:4].mean((2, 3)))
    torch.testing.assert_close(flat[..., 5, 4], x[..., 4:6, 4:5].mean((2, 3)))  # of a square cut by the border
    torch.testing.assert_close(DenoiseRestore(factor=1, sigma=0.3).degraded(x, noise), x + 0.3 * noise)


def test_the_network_undoes_what_was_degraded_and_a_checkerboard_is_gone() -> None:
    images = torch.full((64, 1, 8, 8), 40, dtype=torch.uint8)
    images[::2, :, :, :4] += 150
    images[1::2, :, :, 4:] += 150
    clean, run = ArrayDataset(images, [0, 1] * 32, 2), Run.local(device="cpu")
    method = DenoiseRestore(sigma=0.2, steps=80)
    purify = method.fit(nn.Identity(), clean, Classification(2), run)
    x, _, index = clean.fetch(torch.arange(64))
    degraded = method.degraded(x, random.normal(run.rng("noise").initial_seed(), index, 1, 8, 8))
    assert functional.mse_loss(purify(x, index)[0], x) < 0.5 * functional.mse_loss(degraded, x)
    checks = 0.2 * (torch.arange(8)[:, None] + torch.arange(8)).remainder(2)
    with_checks, without = (purify(grey, index)[0] for grey in (0.2 + 0 * x + checks, 0.2 + 0 * x + checks.mean()))
    torch.testing.assert_close(with_checks, without, rtol=1e-4, atol=1e-4)


def test_something_must_be_degraded() -> None:
    with pytest.raises(ConfigError, match="degrade nothing"):
        DenoiseRestore(factor=1, sigma=0)
