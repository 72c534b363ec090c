from __future__ import annotations

import copy

import pytest
import torch
from backdoored_digits import Scene
from torch import nn

from sidedoor import registry
from sidedoor.core.logs import warn_once
from sidedoor.defenses.repair._lipschitz import outlying_channels
from sidedoor.defenses.repair.clp import CLP
from sidedoor.defenses.repair.clp_tuned import CLPTuned
from sidedoor.errors import NotApplicable

NORMS, CONVS = ("body.1", "body.5", "body.9"), ("body.0", "body.4", "body.8")


def changed(before: nn.Module, after: nn.Module) -> dict[str, list[int]]:
    """Which channels of which tensors differ."""
    state = after.state_dict()
    pairs = {name: (value != state[name]) for name, value in before.state_dict().items()}
    return {name: differs.reshape(len(differs), -1).any(1).nonzero()[:, 0].tolist() for name, differs in pairs.items()
            if differs.any()}


def even(scene: Scene) -> nn.Module:
    """The model with channels of equal constants."""
    model = copy.deepcopy(scene.sibling)
    for norm, z in outlying_channels(model, scene.clean.shape).items():
        model.get_submodule(norm).weight.data = torch.sqrt(model.get_submodule(norm).running_var + 1e-5)
        assert len(z) in (16, 32, 64)
    for conv in CONVS:
        kernel = model.get_submodule(conv).weight.data
        kernel /= torch.linalg.matrix_norm(kernel.flatten(2), 2)[:, None, None, None]
    return model


def test_the_channel_whose_kernel_is_enlarged_goes_and_no_other(scene: Scene) -> None:
    model = even(scene)
    with torch.no_grad():
        model.get_parameter("body.8.weight")[7] *= 50
    repaired = CLP().repair(model, scene.clean, scene.task, scene.run)
    assert changed(model, repaired) == {"body.9.weight": [7], "body.9.bias": [7]}
    state = repaired.state_dict()
    assert state["body.9.weight"][7] == state["body.9.bias"][7] == 0


def test_constants_are_those_of_convolution_and_normalisation_together(scene: Scene) -> None:
    """An enlarged kernel whose normalisation undoes it is no outlier; a large weight alone is."""
    model = even(scene)
    with torch.no_grad():
        model.get_parameter("body.8.weight")[7] *= 50
        model.get_buffer("body.9.running_var")[7] = (model.get_buffer("body.9.running_var")[7] + 1e-5) * 2500 - 1e-5
        model.get_parameter("body.9.weight")[20] *= -9
    repaired = CLP().repair(model, scene.clean, scene.task, scene.run)
    assert changed(model, repaired) == {"body.9.weight": [20], "body.9.bias": [20]}


def test_a_model_without_outliers_stays_and_this_is_said(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    warn_once.cache_clear()
    model = even(scene)
    assert changed(model, CLP().repair(model, scene.clean, scene.task, scene.run)) == {}
    assert "CLP prunes nothing" in caplog.text


def test_networks_that_it_cannot_prune_are_refused(scene: Scene) -> None:
    for reference, reason in (({"name": "vit", "depth": 1, "width": 12}, "no convolution that is followed by"),
                              ({"name": "small_cnn", "width": 2}, "8 channels")):
        model = registry.make("model", reference)(10, scene.clean.shape).eval()
        with pytest.raises(NotApplicable, match=reason):
            CLP().repair(model, scene.clean, scene.task, scene.run)


def test_with_clean_samples_the_smallest_threshold_that_keeps_accuracy_is_taken(scene: Scene) -> None:
    model = copy.deepcopy(scene.sibling)
    with torch.no_grad():  # channels that do nothing, by a negative bias, and are far from the others
        for place, size in ((3, 40.0), (5, 200.0)):
            model.get_parameter("body.9.weight")[place], model.get_parameter("body.9.bias")[place] = size, -1e6
    method = CLPTuned()
    path = [(step.strength, step.accuracy, changed(model, step.model).get("body.9.weight", []))
            for step in method.steps(model, scene.clean, scene.task, scene.run)]
    strengths = [strength for strength, _, _ in path]
    assert strengths[0] == 0
    assert strengths == sorted(set(strengths))
    assert path[1][2] == [5]
    chosen = method.chosen(method.steps(model, scene.clean, scene.task, scene.run))
    within = [strength for strength, accuracy, _ in path if accuracy >= path[0][1] - 0.05]
    assert chosen.strength == within[-1] >= 1 / 112
    assert max(strengths) > chosen.strength
