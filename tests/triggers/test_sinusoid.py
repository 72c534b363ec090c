"""The grating against its formula in numpy and against the published PSNR."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sidedoor.errors import ConfigError
from sidedoor.triggers.sinusoid import Sinusoid


def test_psnr_of_the_raw_signal_is_the_published_one() -> None:
    x = torch.rand(8, 3, 32, 32)
    error = (Sinusoid(20 / 255, 6)(x, torch.arange(8)) - x).double().square().mean((1, 2, 3))
    psnr = -10 * error.log10()
    assert psnr.numpy() == pytest.approx(np.full(8, 25.12), abs=0.005)


@pytest.mark.parametrize(("width", "frequency"), [(32, 6), (28, 3), (17, 8)])
def test_every_row_and_channel_is_shifted_by_the_wave_of_the_paper(width: int, frequency: int) -> None:
    x = torch.rand(2, 3, 5, width)
    wave = 0.1 * np.sin(2 * np.pi * np.arange(1, width + 1) * frequency / width)
    added = (Sinusoid(0.1, frequency)(x, torch.arange(2)) - x).numpy()
    np.testing.assert_allclose(added, np.broadcast_to(wave, x.shape), atol=1e-6)


@pytest.mark.parametrize(("width", "frequency"), [(12, 6), (16, 8), (6, 6)])
def test_a_wave_that_is_zero_at_every_pixel_is_refused(width: int, frequency: int) -> None:
    with pytest.raises(ConfigError, match=f"zero at all {width} columns"):
        Sinusoid(0.1, frequency)(torch.rand(1, 1, 4, width), torch.arange(1))
