"""Networks in two parts, and Grad-CAM, which looks at where they are joined."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sidedoor import registry
from sidedoor.algorithms.features.cut import cut
from sidedoor.algorithms.saliency.grad_cam import grad_cam
from sidedoor.errors import NotApplicable
from sidedoor.models.base import Classifier, classifier
from sidedoor.models.small_cnn import small_cnn

SHAPE = (3, 32, 32)


@pytest.mark.parametrize("reference", [
    {"name": "resnet18", "width": 4}, {"name": "preact_resnet18", "width": 4}, {"name": "vgg19_bn", "width": 4},
    {"name": "densenet", "depth": 10}, {"name": "cifar_resnet", "depth": 8}, {"name": "resnext29", "width": 4},
    {"name": "torchvision", "architecture": "squeezenet1_1"}], ids=lambda reference: reference["name"])
def test_both_parts_make_the_whole_behind_every_stage(reference: dict[str, Any]) -> None:
    model = registry.make("model", reference)(10, SHAPE).eval()
    x = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    sizes = []
    with torch.no_grad():
        for place in (-1, -2, 0):
            network = cut(model, SHAPE, place)
            maps = network.maps(x)
            assert torch.allclose(network.tail(maps), model(x), atol=1e-4)
            assert not torch.equal(network.tail(torch.zeros_like(maps)), network.tail(maps))
            sizes.append(maps.shape[-1])
    assert 1 < sizes[0] <= sizes[1] <= sizes[2]
    assert not any(module._forward_hooks for module in model.modules())


def test_a_stage_ends_behind_activation_and_pooling() -> None:
    model = small_cnn(4, (1, 16, 16), 8).eval()
    assert [cut(model, (1, 16, 16), place).name for place in range(3)] == ["body.3", "body.7", "body.10"]
    with pytest.raises(NotApplicable, match="3 stages"):
        cut(model, (1, 16, 16), 3)


@pytest.mark.parametrize("reference", [{"name": "vit", "depth": 1}])
def test_a_network_without_maps_is_refused(reference: dict[str, Any]) -> None:
    with pytest.raises(NotApplicable, match="alone"):
        cut(registry.make("model", reference)(10, SHAPE).eval(), SHAPE)


class Beside(nn.Module):
    """A head that looks at maps and past them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(self.conv(x).mean((2, 3)))
        return logits + x.mean()


def test_a_way_around_the_maps_is_noticed() -> None:
    with pytest.raises(NotApplicable, match=r"body\.conv alone"):
        cut(classifier(Beside(), 10, 3).eval(), SHAPE)


def halves() -> Classifier:
    """Class 0 counts the light in the left half of an image, class 1 that in the right half against it."""
    body = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 8 * 8, 2, bias=False))
    model = Classifier(body, 2, (0.0,), (1.0,))
    with torch.no_grad():
        body[0].weight.copy_(torch.tensor([1.0, 1.0]).reshape(2, 1, 1, 1))  # type: ignore[operator]
        weight = torch.zeros(2, 2, 8, 8)
        weight[0, 0, :, :4] = 1
        weight[1, 1, :, 4:] = -1
        body[3].weight.copy_(weight.reshape(2, -1))  # type: ignore[operator]
    return model.eval().requires_grad_(False)


def test_grad_cam_weighs_maps_by_their_mean_gradient() -> None:
    network = cut(halves(), (1, 8, 8))
    x = torch.zeros(2, 1, 8, 8)
    x[0, :, 2, 3], x[1, :, 5, 6], x[1, :, 0, 0] = 0.5, 1.0, 0.25
    found = grad_cam(network, x, torch.tensor([0, 0]))
    assert torch.equal(found, x[:, 0] / x.amax((1, 2, 3))[:, None, None])  # each by its own maximum
    assert not grad_cam(network, x, torch.tensor([1, 1])).any()  # light speaks against class 1


def test_grad_cam_is_as_large_as_the_image() -> None:
    model = small_cnn(4, (3, 16, 16), 8).eval()
    found = grad_cam(cut(model, (3, 16, 16)), torch.rand(5, 3, 16, 16), torch.arange(5) % 4)
    assert found.shape == (5, 16, 16)
    assert not found.requires_grad
    assert found.min() >= 0
    assert torch.all((found.amax((1, 2)) == 1) | (found.amax((1, 2)) == 0))
    assert all(parameter.grad is None for parameter in model.parameters())
