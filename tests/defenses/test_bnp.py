from __future__ import annotations

import copy

import pytest
import torch
from backdoored_digits import Scene
from torch import nn

from sidedoor import registry
from sidedoor.data.base import Dataset
from sidedoor.defenses.repair.bnp import BNP, divergences
from sidedoor.errors import NotApplicable
from sidedoor.types import Batch


@torch.no_grad()
def remembering(scene: Scene) -> nn.Module:
    """The clean model whose batch normalisation knows exactly what the clean images give."""
    model = copy.deepcopy(scene.sibling).train()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 1.0
    for _ in range(3):  # each layer's statistics settle once those before it have
        model(scene.clean.fetch(torch.arange(len(scene.clean))).x)
    return model.eval()


def test_a_shifted_mean_goes_and_nothing_else(scene: Scene) -> None:
    model = remembering(scene)
    usual = pruned(model, scene)  # rounding has outliers, too, where all divergences are next to nothing
    with torch.no_grad():
        model.get_buffer("body.9.running_mean")[9] += 10 * model.get_buffer("body.9.running_var")[9].sqrt()
    assert pruned(model, scene) == usual | {"body.9.weight": [9]}


def pruned(model: nn.Module, scene: Scene) -> dict[str, list[int]]:
    """Which entries of which tensors the method changes."""
    state = BNP().repair(model, scene.clean, scene.task, scene.run).state_dict()
    differs = {name: (value != state[name]) for name, value in model.state_dict().items()}
    return {name: changed.nonzero()[:, 0].tolist() for name, changed in differs.items() if changed.any()}


def test_the_divergence_is_that_of_normal_distributions(scene: Scene) -> None:
    model = remembering(scene)
    with torch.no_grad():
        model.get_buffer("body.1.running_mean")[2] += 0.5
        model.get_buffer("body.1.running_var")[2] *= 4.0
    found = divergences(model, scene.clean, scene.run)["body.1"]
    x = scene.clean.fetch(torch.arange(len(scene.clean))).x
    with torch.no_grad():
        given = model.get_submodule("body.0")(model.normalize(x)).transpose(0, 1).flatten(1).double()  # type: ignore[operator]
    clean = torch.distributions.Normal(given.mean(1), given.var(1, unbiased=False).sqrt())
    kept = torch.distributions.Normal(model.get_buffer("body.1.running_mean").double(),
                                      model.get_buffer("body.1.running_var").double().sqrt())
    expected = torch.distributions.kl_divergence(clean, kept).float()
    assert torch.allclose(found.float(), expected, rtol=1e-2, atol=1e-3)
    assert found.argmax() == 2
    assert found[2] > 0.1


def test_labels_are_not_looked_at_and_the_model_is_left_alone(scene: Scene) -> None:
    before = copy.deepcopy(scene.model.state_dict())
    once = BNP(u=2.0).repair(scene.model, scene.clean, scene.task, scene.run)
    other = BNP(u=2.0).repair(scene.model, _Unlabelled(scene.clean), scene.task, scene.run)
    assert all(torch.equal(a, b) for a, b in zip(once.state_dict().values(), other.state_dict().values(), strict=True))
    assert all(torch.equal(before[k], v) for k, v in scene.model.state_dict().items())


class _Unlabelled(Dataset):
    def __init__(self, data: Dataset):
        self.data, self.shape, self.classes = data, data.shape, data.classes
        self.targets = torch.zeros_like(data.targets)

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        return self.data.rows(index)

    def fetch(self, index: torch.Tensor, device: torch.device | str = "cpu") -> Batch:
        return self.data.fetch(index, device)._replace(y=self.targets[index])

    def fingerprint(self) -> str:
        return self.data.fingerprint()


def test_networks_without_batch_normalisation_or_width_are_refused(scene: Scene) -> None:
    for reference, reason in (({"name": "vit", "depth": 1, "width": 12}, "no batch normalisation"),
                              ({"name": "small_cnn", "width": 2}, "8 channels")):
        model = registry.make("model", reference)(10, scene.clean.shape).eval()
        with pytest.raises(NotApplicable, match=reason):
            BNP().repair(model, scene.clean, scene.task, scene.run)
