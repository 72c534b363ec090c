"""What defends a tracker, what is refused and why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sidedoor.bench.spec import Spec
from sidedoor.defenses.purifiers.hue_shift import HueShift
from sidedoor.defenses.repair.feature_pruning import FeaturePruning, activations
from sidedoor.errors import NotApplicable
from sidedoor.models.trackers.base import Tracker, tracker_in
from sidedoor.models.trackers.dcfnet import dcfnet
from sidedoor.models.trackers.siamfc import TINY, siamfc
from sidedoor.tasks.tracking import Tracking
from sidedoor.testing.ground import clips


def spec(defense: Any) -> Spec:
    return Spec(data={"name": "moving"}, model={"name": "siamfc"}, task={"name": "tracking"}, defense=defense)


@pytest.mark.parametrize("name", ["hue_shift", "brightness", "gaussian_blur", "gaussian_noise", "jpeg", "bit_depth",
                                  "fine_tuning", "feature_pruning", "template_consistency", "strip_tracking"])
def test_what_moves_nothing_goes_with_trackers(name: str) -> None:
    assert spec(name).refusal() is None


@pytest.mark.parametrize("name", ["flip", "shrink_pad"])
def test_what_moves_the_content_of_frames_is_refused_with_the_reason(name: str) -> None:
    assert spec(name).refusal() == (
        f"defence {name} does not work on the task tracking, because it moves what images show, and nothing moves "
        "boxes back; it knows Classification, Imaging")


@pytest.mark.parametrize("name", ["anp", "fine_pruning", "strip", "neural_cleanse", "spectral_signatures", "abl",
                                  "rotation", "mixup"])
def test_methods_for_classifiers_are_refused(name: str) -> None:
    assert spec(name).refusal() == f"defence {name} does not work on the task tracking; it knows Classification"


def test_trackers_methods_are_refused_for_classifiers() -> None:
    for name in ("feature_pruning", "template_consistency", "strip_tracking"):
        given = Spec(data={"name": "digits"}, model={"name": "small_cnn"}, defense=name)
        assert given.refusal() == f"defence {name} does not work on the task classification; it knows Tracking"


@pytest.mark.parametrize(("build", "crops"), [(siamfc, "siamfc_tiny"), (dcfnet, "dcfnet")])
def test_the_most_dormant_channels_are_silent_in_both_views(build: Any, crops: Any) -> None:
    task = Tracking(crops=crops)
    here = clips(task)
    tracker = here.run.build(lambda: build((3, task.geometry.search, task.geometry.search))).eval()
    before = {key: value.clone() for key, value in tracker.state_dict().items()}
    active = activations(tracker, here.clean, here.run)
    assert len(active.unique()) == len(active) > 30
    template, search = here.test.fetch(torch.arange(3)).x.chunk(2, 1)
    plain = tracker.features(search)
    strengths = []
    for strength, pruned in FeaturePruning(most=0.5, grid=2).path(tracker, here.clean, task, here.run):
        strengths.append(strength)
        gone = active.argsort()[: round(strength * len(active))]
        kept = active.argsort()[len(gone) :]
        for view in (tracker_in(pruned).template(template), search):
            found = tracker_in(pruned).features(view)
            assert bool((found[:, gone] == 0).all())
            assert bool((found[:, kept].abs().amax((0, 2, 3)) > 0).all())
        if build is siamfc:  # local response normalisation mixes channels
            assert torch.allclose(tracker_in(pruned).features(search)[:, kept], plain[:, kept], atol=1e-5)
    assert strengths == [0.0, 0.25, 0.5]
    assert all(torch.equal(before[key], value) for key, value in tracker.state_dict().items())


class Plain(Tracker):
    """Features that no layer with weights makes."""

    geometry = TINY

    def features(self, x: Tensor) -> Tensor:
        return x

    def start(self, template: Tensor) -> tuple[Tensor, ...]:
        return (template,)

    def respond(self, state: tuple[Tensor, ...], x: Tensor) -> Tensor:
        return torch.zeros(len(x), 17, 17)

    def loss(self, response: Tensor, offset: Tensor) -> Tensor:
        return response.mean((1, 2))


def test_features_without_a_layer_are_not_applicable() -> None:
    here = clips(Tracking())
    model = nn.Sequential(Plain())
    with pytest.raises(NotApplicable, match="no convolution or normalisation last with the 3 channels"):
        list(FeaturePruning().path(model, here.clean, here.task, here.run))


def test_hues_go_round_the_circle_and_grey_stays() -> None:
    here = clips(Tracking())
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1

    def shifted(x: Tensor, shift: float) -> Tensor:
        return HueShift(shift).fit(nn.Identity(), here.clean, here.task, here.run)(x, torch.arange(len(x)))[0]

    red = torch.tensor([0.8, 0.2, 0.2])[None, :, None, None]
    assert torch.allclose(shifted(red, 1 / 3)[0, :, 0, 0], torch.tensor([0.2, 0.8, 0.2]), atol=1e-5)  # to green
    assert torch.allclose(shifted(red, 0.5)[0, :, 0, 0], torch.tensor([0.2, 0.8, 0.8]), atol=1e-5)  # to cyan
    there = shifted(x, 0.2)
    assert (there - x).abs().mean() > 0.05
    assert torch.allclose(shifted(there, -0.2), x, atol=1e-4)
    assert torch.allclose(there.amax(1), x.amax(1), atol=1e-5)
    grey = x[:, :1].expand(-1, 3, -1, -1)
    assert torch.allclose(shifted(grey, 0.2), grey, atol=1e-6)
    assert torch.equal(shifted(x[:, :1], 0.2), x[:, :1])
