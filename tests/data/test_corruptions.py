from __future__ import annotations

import pytest
import torch

from sidedoor.data.corruptions import CORRUPTIONS, SEVERITIES, impulse_noise, pixelate
from sidedoor.data.root import Where
from sidedoor.data.sets.toy import toy


def pictures(channels: int = 3) -> torch.Tensor:
    _, test = toy(Where(None), test=16)
    return test.fetch(torch.arange(8)).x[:, :channels]


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_severity_changes_more_than_the_one_before(name: str, channels: int) -> None:
    x, index = pictures(channels), torch.arange(8)
    changed = [CORRUPTIONS[name](x, index, severity, 7) for severity in range(1, SEVERITIES + 1)]
    for made in changed:
        assert made.shape == x.shape
        assert made.min() >= 0
        assert made.max() <= 1
    loss = [(made - x).square().mean().item() for made in changed]
    assert 0 < loss[0] < loss[-1]
    assert name == "pixelate" or loss == sorted(loss), loss  # larger pixels may happen to fit the picture better


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_what_is_random_belongs_to_the_sample(name: str) -> None:
    x, index = pictures(), torch.arange(8)
    whole, order = CORRUPTIONS[name](x, index, 3, 7), torch.tensor([5, 0, 3])
    torch.testing.assert_close(CORRUPTIONS[name](x[order], index[order], 3, 7), whole[order])
    if "noise" in name or "motion" in name:
        assert not torch.allclose(CORRUPTIONS[name](x, index, 3, 8), whole)
        assert not torch.allclose(CORRUPTIONS[name](x, index + 8, 3, 7), whole)


def test_salt_and_pepper_in_equal_parts() -> None:
    made = impulse_noise(torch.full((8, 1, 64, 64), 0.5), torch.arange(8), 5, 0)
    assert (made == 0).float().mean().item() == pytest.approx(0.135, abs=0.01)
    assert (made == 1).float().mean().item() == pytest.approx(0.135, abs=0.01)


def test_pixels_become_larger_and_keep_the_mean() -> None:
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    made = pixelate(x, torch.arange(2), 5, 0)
    assert made[0].unique().numel() == 16
    torch.testing.assert_close(made.mean((2, 3)), x.mean((2, 3)))
