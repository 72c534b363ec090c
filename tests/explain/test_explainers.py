"""Explainers: what they give on networks whose reason is known, and that they agree with captum."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor import registry
from sidedoor.algorithms.features.cut import cut
from sidedoor.engine import seeded
from sidedoor.errors import CannotComplete, NotApplicable
from sidedoor.explain.base import Explainer
from sidedoor.explain.methods.feature_ablation import _grid
from sidedoor.explain.methods.grad_cam import GradCam
from sidedoor.explain.methods.gradient import Gradient
from sidedoor.explain.methods.guided_backprop import GuidedBackprop
from sidedoor.explain.methods.lime import Lime
from sidedoor.explain.methods.rise import Rise
from sidedoor.models.small_cnn import small_cnn
from sidedoor.testing.ground import images

NAMES = [entry.name for entry in registry.entries() if entry.kind == "explainer"]
TARGET = torch.zeros(4, dtype=torch.int64)


def explainer(name: str) -> Explainer:
    made: Explainer = registry.load("explainer", name)(**registry.quick("explainer", name))
    return made


class Corner(nn.Module):
    """Class 0 where the last 4×4 pixels are bright, and ReLU so that all methods apply; nothing else counts."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(3, 1, 1, bias=False)
        nn.init.ones_(self.look.weight)

    def forward(self, x: Tensor) -> Tensor:
        bright = functional.relu(self.look(x))[..., -4:, -4:].mean((1, 2, 3))
        return torch.stack([bright, torch.zeros_like(bright)], 1)


@pytest.mark.parametrize("name", [name for name in NAMES if "cam" not in name])
def test_the_pixels_that_count_are_the_most_salient(name: str) -> None:
    if name in ("occlusion", "feature_ablation", "lime", "integrated_gradients"):
        pytest.importorskip("captum")
    x = images((3, 16, 16), 4)
    x[..., -4:, -4:] = 1
    parameters: dict[str, Any] = {"lime": {"samples": 200}, "rise": {"masks": 500, "cells": 4}}.get(name, {})
    maps = registry.load("explainer", name)(**registry.quick("explainer", name) | parameters) \
        .saliency(Corner(), x, TARGET)
    inside = maps[:, -4:, -4:].mean((1, 2))
    outside = (maps.sum((1, 2)) - 16 * inside) / (256 - 16)
    assert (inside > (1.03 if name == "rise" else 1.2) * outside).all()
    if name not in ("rise", "lime"):
        assert torch.equal(maps[:, :8, :8], torch.zeros(4, 8, 8))


def small(seed: int = 0) -> nn.Module:
    """An untrained network."""
    with seeded(seed, torch.device("cpu")):
        return small_cnn(4, (3, 16, 16), 8).eval()


@pytest.mark.parametrize("name", ["grad_cam", "guided_grad_cam"])
def test_maps_of_a_stage_point_at_what_it_sees(name: str) -> None:
    """The last stage sees brightness, which speaks for class 0 and against class 1."""
    stage = nn.Conv2d(3, 1, 1, bias=False)
    last = nn.Linear(1, 2)
    model = nn.Sequential(nn.Sequential(stage, nn.ReLU()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
    with torch.no_grad():
        stage.weight.fill_(1.0)
        last.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    x = torch.full((4, 3, 16, 16), 0.1)
    x[..., 4:8, 9:13] = 1
    found = explainer(name).saliency(model, x, TARGET)
    assert found[:, 5:7, 10:12].amin() > 5 * found[:, :3].amax() > 0
    assert explainer(name).saliency(model, x, TARGET + 1).amax() == 0


def test_gradients_agree_with_captum() -> None:
    attr = pytest.importorskip("captum.attr")
    model, x = small(), images((3, 16, 16), 4)
    target = torch.tensor([0, 1, 2, 3])
    found = Gradient().saliency(model, x, target)
    assert torch.allclose(found, attr.Saliency(model).attribute(x.clone().requires_grad_(), target).amax(1), atol=1e-6)
    assert found.amax() > 1e-3


def test_guided_gradients_agree_with_captum_where_all_activations_are_modules() -> None:
    attr = pytest.importorskip("captum.attr")
    model, x = small(), images((3, 16, 16), 4)
    target = torch.tensor([0, 1, 2, 3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = attr.GuidedBackprop(model).attribute(x.clone(), target).detach().abs().amax(1)
    found = GuidedBackprop().saliency(model, x, target)
    assert torch.allclose(found, theirs, atol=1e-6)
    assert not torch.allclose(found, Gradient().saliency(model, x, target), atol=1e-2 * float(found.amax()))


class Twice(nn.Module):
    """Two layers whose ReLU is one module, a function, or works in place."""

    def __init__(self, form: str):
        super().__init__()
        self.form, self.relu = form, nn.ReLU(inplace=form == "in place")
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        relu = torch.relu if self.form == "function" else functional.relu if self.form == "functional" else self.relu
        return self.last(relu(self.first(relu(x - 0.5))).mean((2, 3)))


def test_relus_are_guided_however_they_are_called() -> None:
    torch.manual_seed(0)
    model, x = Twice("module"), images((3, 16, 16), 4)
    found = GuidedBackprop().saliency(model, x, TARGET)
    for form in ("function", "functional", "in place"):
        other = Twice(form)
        other.load_state_dict(model.state_dict())
        assert torch.allclose(GuidedBackprop().saliency(other, x, TARGET), found)
    assert not torch.allclose(Gradient().saliency(model, x, TARGET), found)


def test_networks_without_relu_are_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.GELU(), nn.Linear(8, 2))
    with pytest.raises(NotApplicable, match=r"calls no ReLU.*GELU found"):
        GuidedBackprop().saliency(model, images((3, 16, 16), 4), TARGET)


class Dropped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(768, 2)

    def forward(self, x: Tensor) -> Tensor:
        changed = x - 0.5
        torch.relu_(changed)
        return self.last(changed.flatten(1))


def test_networks_that_drop_what_a_relu_returns_are_refused() -> None:
    with pytest.raises(NotApplicable, match="in place"):
        GuidedBackprop().saliency(Dropped(), images((3, 16, 16), 4), TARGET)


def test_grad_cam_agrees_with_captum_up_to_its_enlargement() -> None:
    attr = pytest.importorskip("captum.attr")
    model, x = small(), images((3, 16, 16), 4)
    target = torch.tensor([0, 1, 2, 3])
    layer = model.get_submodule(cut(model, (3, 16, 16)).name)
    coarse = attr.LayerGradCam(model, layer).attribute(x, target, relu_attributions=True).detach()
    large = functional.interpolate(coarse, (16, 16), mode="bilinear", align_corners=False)[:, 0]
    large = large / large.amax((1, 2), keepdim=True).clamp(min=1e-12)
    assert torch.allclose(GradCam().saliency(model, x, target), large, atol=1e-4)


def test_cells_of_a_grid_are_squares_with_a_number_each() -> None:
    x = torch.zeros(1, 1, 5, 7)
    grid = _grid(x, 3)[0, 0]
    assert grid.unique().tolist() == list(range(6))
    assert [int((grid == k).sum()) for k in range(6)] == [9, 9, 3, 6, 6, 2]


def test_lime_keeps_signs_and_few_segments() -> None:
    pytest.importorskip("captum")
    x = torch.full((1, 3, 16, 16), 0.2)
    x[..., -4:, -4:], x[..., :4, :4] = 1.0, 0.8

    class Against(Corner):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 4 - 12 * torch.stack([x[..., :4, :4].mean((1, 2, 3)), x[:, 0, 0, 0] * 0], 1)

    found = Lime(samples=300, features=2).saliency(Against(), x, TARGET[:1])[0]
    assert found[-4:, -4:].mean() > 0 > found[:4, :4].mean()
    assert len(found.unique()) <= 3


def test_rise_weights_masks_by_the_probability() -> None:
    method, x = Rise(masks=50, cells=4, batch=7), images((3, 16, 16), 4)[:2]
    model = small()
    masks = method._masks(16, 16)
    assert masks.shape == (50, 16, 16)
    assert 0 <= masks.amin() < masks.amax() <= 1
    for k, target in enumerate((1, 2)):
        weight = model(x[k] * masks[:, None]).softmax(1)[:, target]
        expected = (weight[:, None, None] * masks).sum(0) / 25
        assert torch.allclose(method.saliency(model, x, torch.tensor([1, 2]))[k], expected, atol=1e-5)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(CannotComplete, match=r"lime needs captum; pip install 'sidedoor\[explain\]'"):
        Lime().saliency(Corner(), images((3, 16, 16), 4), TARGET)
