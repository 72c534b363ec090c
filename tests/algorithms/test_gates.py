"""Gates on channels: where they sit, that they change nothing by themselves, and what pruning leaves."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from sidedoor import registry
from sidedoor.algorithms.pruning.gates import add_gates, gated_layers, prune, pruned_by_mask
from sidedoor.errors import NotApplicable

SHAPE = (3, 32, 32)
NETWORKS: list[tuple[dict[str, Any], type[nn.Module]]] = [
    ({"name": "small_cnn", "width": 4}, nn.BatchNorm2d), ({"name": "resnet18", "width": 4}, nn.BatchNorm2d),
    ({"name": "preact_resnet18", "width": 4}, nn.BatchNorm2d), ({"name": "vgg19_bn", "width": 4}, nn.BatchNorm2d),
    ({"name": "densenet", "depth": 10}, nn.BatchNorm2d), ({"name": "cifar_resnet", "depth": 8}, nn.BatchNorm2d),
    ({"name": "resnext29", "width": 4}, nn.BatchNorm2d), ({"name": "vit", "depth": 1, "width": 48}, nn.LayerNorm),
    ({"name": "torchvision", "architecture": "squeezenet1_1"}, nn.Conv2d),
]


@pytest.mark.parametrize(("reference", "kind"), NETWORKS, ids=lambda value: value.get("name", "")
                         if isinstance(value, dict) else "")
def test_open_gates_change_nothing_and_masks_are_all_that_trains(reference: dict[str, Any],
                                                                 kind: type[nn.Module]) -> None:
    model = registry.make("model", reference)(10, SHAPE).eval()
    gated = copy.deepcopy(model)
    gates = add_gates(gated)
    x = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(gated(x), model(x))
    assert all(isinstance(model.get_submodule(name), kind) for name in gates.weights)
    learned = {id(p) for p in gated.parameters() if p.requires_grad}
    assert learned == {id(gate.mask) for gate in gates.weights.values()}
    assert [len(mask) for mask in gates.masks().values()] == \
        [len(model.get_submodule(name).weight) for name in gates.weights]


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()


def test_a_mask_and_noise_scale_the_weight_and_noise_the_bias() -> None:
    model = two_layers()
    nn.init.normal_(model[1].weight)
    nn.init.normal_(model[1].bias)
    gated = copy.deepcopy(model)
    gates = add_gates(gated)
    with torch.no_grad():
        gates.weights["1"].mask.copy_(torch.tensor([0.5, 1.0, 0.0]))
        gates.set_noise([torch.tensor([0.1, 0.2, 0.3]), torch.tensor([-0.5, 0.0, 1.0])])
        assert torch.allclose(gated[1].weight, model[1].weight * torch.tensor([0.6, 1.2, 0.3]))
        assert torch.allclose(gated[1].bias, model[1].bias * torch.tensor([0.5, 1.0, 2.0]))
        gates.set_noise([None, None])
        assert torch.allclose(gated[1].weight, model[1].weight * torch.tensor([0.5, 1.0, 0.0]))
        assert torch.equal(gated[1].bias, model[1].bias)
        gates.weights["1"].mask.copy_(torch.tensor([-0.5, 0.4, 3.0]))
    gates.clip()
    assert gates.masks()["1"].tolist() == pytest.approx([0.0, 0.4, 1.0])


def test_pruning_takes_weights_and_biases_if_asked() -> None:
    for biases in (False, True):
        model = two_layers()
        nn.init.ones_(model[1].bias)
        prune(model, {"1": torch.tensor([True, False, False])}, biases=biases)
        assert model[1].weight.tolist() == [0, 1, 1]
        assert model[1].bias.tolist() == [0 if biases else 1, 1, 1]


def test_thresholds_grow_from_the_model_as_it_is() -> None:
    model = two_layers()
    before = copy.deepcopy(model.state_dict())
    masks, seen = {"1": torch.tensor([0.0, 0.5, 0.7])}, []
    for strength, pruned in pruned_by_mask(model, masks, (0.6, 0.5, 0.2)):
        seen.append((strength, pruned.get_parameter("1.weight").tolist()))
    assert seen == [(0.0, [1, 1, 1]), (0.2, [0, 1, 1]), (0.5, [0, 0, 1]), (0.6, [0, 0, 1])]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_network_of_a_head_alone_is_refused() -> None:
    with pytest.raises(NotApplicable, match="no normalisation"):
        gated_layers(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
