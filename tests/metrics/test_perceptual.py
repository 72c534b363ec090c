"""Distances as networks see them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.metrics import image_quality, perceptual
from sidedoor.tasks.restoration import Restoration
from sidedoor.types import Batch


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "squeezenet.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(torchvision.models.squeezenet1_0(weights=None).state_dict(), path)
    return str(path)


def images() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("network", ["squeezenet1_0", "squeezenet1_0:caffe"])
def test_it_is_a_distance_of_each_pair_that_can_be_descended(network: str, weights: str) -> None:
    between = perceptual.distance("features", network, weights)
    a, b = images(), images().flip(3)
    assert between(a, b).shape == (3,)
    assert torch.allclose(between(a, a), torch.zeros(3))
    assert torch.allclose(between(a, b), between(b, a))
    assert torch.allclose(between(a[:1], b[:1]), between(a, b)[:1], atol=1e-5)
    near = a + 0.02 * torch.randn(a.shape, generator=torch.Generator().manual_seed(1))
    assert bool((between(a, near) < between(a, b)).all())
    a.requires_grad_(True)
    (gradient,) = torch.autograd.grad(between(a, b).sum(), a)
    assert gradient.abs().max() > 0


def test_grey_images_are_three_equal_channels(weights: str) -> None:
    between = perceptual.distance("features", "squeezenet1_0", weights)
    a, b = images()[:, :1], images()[:, 1:2]
    assert torch.allclose(between(a, b), between(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1)))


def test_a_task_is_trained_by_it(weights: str) -> None:
    task = Restoration(measure="features", weights=weights)
    batch = Batch(images(), images().flip(2), torch.arange(3))
    assert torch.allclose(task.loss(torch.nn.Identity(), batch),
                          perceptual.distance("features", "squeezenet1_0", weights)(batch.x, batch.y))


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CannotComplete, match="need its weights"):
        perceptual.distance("features", "vgg16", "")
    with pytest.raises(ConfigError, match="unknown network of features 'resnet'"):
        perceptual.distance("features", "resnet", "x")
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CannotComplete, match=r"other\.safetensors for alexnet does not fit"):
        perceptual.distance("features", "alexnet", str(tmp_path / "other.safetensors"))
    monkeypatch.setattr(image_quality, "lpips_network", lambda: None)
    with pytest.raises(CannotComplete, match=r"needs `pip install 'sidedoor\[perceptual\]'`"):
        perceptual.distance("lpips", "", "")
