"""PSNR and SSIM against other implementations; LPIPS only with its own weights."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from sidedoor.metrics import image_quality


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth images and noisy copies, different noise for each."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 8, 8, generator=rng)
    a = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
    noise = torch.tensor([0.01, 0.05, 0.1, 0.3])[:, None, None, None] * torch.randn(4, 3, 32, 32, generator=rng)
    return a, (a + noise).clamp(0, 1)


@pytest.mark.parametrize(("shift", "decibels"), [(0.1, 20.0), (0.01, 40.0), (1.0, 0.0), (0.0, 100.0), (1e-9, 100.0)])
def test_psnr_of_a_known_shift(shift: float, decibels: float) -> None:
    a = torch.zeros(2, 1, 5, 7)
    assert image_quality.psnr(a, a + shift).tolist() == pytest.approx([decibels] * 2, abs=1e-4)


def test_psnr_is_of_each_image_alone() -> None:
    a = torch.zeros(2, 3, 4, 4)
    b = a.clone()
    b[1, 0, 0, 0] = 1.0
    assert image_quality.psnr(a, b).tolist() == pytest.approx([100.0, 10 * np.log10(48)], abs=1e-4)


def test_ssim_is_that_of_scikit_image(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    a, b = pair
    found = image_quality.ssim(a, b)
    # The windows are the same; scikit-image leaves the border, 5 of 32 pixels a side, out of the mean.
    expected = [structural_similarity(x.numpy(), y.numpy(), channel_axis=0, gaussian_weights=True, sigma=1.5,
                                      use_sample_covariance=False, data_range=1.0) for x, y in zip(a, b, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=0.02)
    assert found.tolist() == sorted(found.tolist(), reverse=True)
    assert found[3] < 0.6 < 0.97 < found[0]


def test_ssim_counts_the_border_with_mirrored_images(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    a, b = (part.double().numpy() for part in pair)

    def local(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, (0, 0, 1.5, 1.5), mode="mirror", radius=(0, 0, 5, 5))

    mean_a, mean_b = local(a), local(b)
    spread = local(a * a) - mean_a**2 + local(b * b) - mean_b**2
    together = local(a * b) - mean_a * mean_b
    expected = ((2 * mean_a * mean_b + 0.01**2) * (2 * together + 0.03**2)
                / ((mean_a**2 + mean_b**2 + 0.01**2) * (spread + 0.03**2)))
    found = image_quality.ssim(*pair).numpy()
    np.testing.assert_allclose(found, expected.mean((1, 2, 3)), atol=1e-6)
    assert np.abs(found - expected[..., 5:-5, 5:-5].mean((1, 2, 3))).max() > 1e-4


def test_ssim_of_flat_regions_in_single_precision_is_that_of_double() -> None:
    """Away from the border as scikit-image has it in double precision, where single precision is worst: flat and light,
    a level apart."""
    rng = torch.Generator().manual_seed(0)
    a = torch.full((3, 1, 48, 40), 250 / 255)
    a[1], a[2, :, :, 20:] = 1.0, 0.0
    b = (a + torch.randint(-1, 2, a.shape, generator=rng) / 255).clamp(0, 1)
    for x, y, found in zip(a, b, image_quality.ssim(a, b), strict=True):
        double = [part[0].double().numpy() for part in (x, y)]
        local = structural_similarity(*double, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                                      data_range=1.0, full=True)[1]
        # scikit-image mirrors with the outermost pixel repeated, so that maps agree within the border.
        whole = torch.nn.functional.pad(torch.stack([x, y]), (5, 5, 5, 5), mode="reflect").double().numpy()
        beyond = structural_similarity(*whole[:, 0], gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                                       data_range=1.0, full=True)[1][5:-5, 5:-5]
        np.testing.assert_allclose(beyond[5:-5, 5:-5], local[5:-5, 5:-5], atol=1e-9)
        assert found.item() == pytest.approx(beyond.mean(), abs=2e-5)


def test_ssim_of_images_smaller_than_the_window() -> None:
    a = torch.rand(2, 1, 1, 3, generator=torch.Generator().manual_seed(0))
    assert image_quality.ssim(a, a).tolist() == pytest.approx([1.0, 1.0])
    assert image_quality.ssim(a, 1 - a).max() < 1


def test_ssim_away_from_the_border_is_that_of_piq(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    piq = pytest.importorskip("piq")
    a, b = pair
    # piq averages over whole windows only, so only the border differs.
    expected = piq.ssim(a, b, downsample=False, reduction="none")
    assert torch.allclose(image_quality.ssim(a, b), expected, atol=0.02)


def test_ssim_of_equal_images_is_one_whatever_the_number_of_images(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    a, b = pair
    assert image_quality.ssim(a, a).tolist() == pytest.approx([1.0] * 4)
    assert image_quality.ssim(a[:1], b[:1]).shape == (1,)
    assert image_quality.ssim(a[:1, :1], b[:1, :1]).shape == (1,)
    assert torch.allclose(image_quality.ssim(a, b)[2], image_quality.ssim(a[2:3], b[2:3])[0])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder where torchvision keeps weights."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    image_quality.lpips_network.cache_clear()
    monkeypatch.setattr(image_quality, "lpips_network", image_quality.lpips_network.__wrapped__)
    return tmp_path


class Squared(torch.nn.Module):
    """Stands in for the network: mean squared difference of 64×64 colour images."""

    def __init__(self, net: str, verbose: bool):
        super().__init__()
        assert (net, verbose) == ("alex", False)

    def forward(self, a: torch.Tensor, b: torch.Tensor, normalize: bool) -> torch.Tensor:
        assert normalize
        assert a.shape == b.shape == (len(a), 3, 64, 64)
        return (a - b).square().mean((1, 2, 3), keepdim=True)


def test_lpips_is_none_without_its_weights(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=Squared))
    x = torch.zeros(2, 3, 16, 16)
    assert image_quality.lpips(x, x) is None


def put_weights(hub: Path) -> None:
    (hub / "checkpoints").mkdir()
    (hub / "checkpoints" / "alexnet-owt-7be5be79.pth").touch()


def test_lpips_is_none_without_its_package(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_weights(hub)
    package: Any = None
    monkeypatch.setitem(sys.modules, "lpips", package)
    x = torch.zeros(2, 3, 16, 16)
    assert image_quality.lpips(x, x) is None


@pytest.mark.parametrize("channels", [1, 3])
def test_lpips_hands_colour_images_of_a_size_alexnet_takes(hub: Path, monkeypatch: pytest.MonkeyPatch,
                                                           channels: int) -> None:
    put_weights(hub)
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=Squared))
    a = torch.zeros(2, channels, 16, 16)
    b = a + torch.tensor([0.0, 0.5])[:, None, None, None]
    found = image_quality.lpips(a, b)
    assert found is not None
    assert found.tolist() == pytest.approx([0.0, 0.25])
