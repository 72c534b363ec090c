from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from backdoored_digits import Scene
from torch import nn

from sidedoor import registry
from sidedoor.algorithms.short_training import for_steps
from sidedoor.defenses.repair.tsbd import TSBD, _Regularised, _zeroed, kernels
from sidedoor.errors import NotApplicable
from sidedoor.tasks.task import Supervised
from sidedoor.types import Batch

SHORT = TSBD(unlearning_steps=60, unlearning_lr=0.003, tuning_steps=120, batch=24)


def test_the_neurons_that_changed_most_lose_the_weights_that_did() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    changes = {"0.weight": torch.tensor([1.0, 9, 2, 3]).reshape(4, 1, 1, 1),
               "1.weight": torch.tensor([[8.0, 0, 7, 6], [1, 1, 0, 0]]).reshape(2, 4, 1, 1)}
    after = _zeroed(model, changes, 2 / 6, 0.6)  # the neurons are 0[1] and 1[0], of 5 weights, of which 3 go
    assert after.get_parameter("0.weight").flatten().tolist() == [1, 0, 1, 1]
    assert after.get_parameter("1.weight")[0].flatten().tolist() == [0, 1, 0, 1]
    assert after.get_parameter("1.weight")[1].flatten().tolist() == [1, 1, 1, 1]
    assert model.get_parameter("0.weight").min() == 1


def test_shortcuts_and_the_head_have_no_neurons_here() -> None:
    names = kernels(registry.make("model", {"name": "resnet18", "width": 2})(10, (3, 8, 8)))
    assert len(names) == 17
    assert not any("shortcut" in name for name in names)
    with pytest.raises(NotApplicable, match="no convolution before its head"):
        kernels(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))


def test_without_alpha_it_fine_tunes_bit_for_bit_and_with_it_otherwise(scene: Scene) -> None:
    recipe = for_steps(scene.run, scene.clean, 8, 24, optimizer="sgd", lr=0.01, momentum=0.9, weight_decay=0.0,
                       schedule="cosine")
    plain = copy.deepcopy(scene.model)
    replace(scene.run, history={}).fit(plain, scene.clean, Supervised(scene.task), name="fine-tune", recipe=recipe)
    given = [copy.deepcopy(scene.model) for _ in range(2)]
    tuned, other = (replace(SHORT, tuning_steps=8, alpha=alpha).finish(model, scene.clean, scene.task, scene.run)
                    for alpha, model in zip((0.0, 0.7), given, strict=True))
    state = tuned.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
    assert not torch.equal(other.state_dict()["body.0.weight"], state["body.0.weight"])


def test_gradients_are_mixed_with_those_a_radius_uphill() -> None:
    """Of w² / 2: the gradient at w is w, and (w + r) a radius uphill."""
    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([3.0]))

    class Half(Supervised):
        def loss(self, model: nn.Module, batch: object) -> torch.Tensor:
            return model.w.square() / 2  # type: ignore[operator, union-attr]

    model = Square()
    batch = Batch(torch.zeros(1, 1, 1, 1), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    loss = _Regularised(TSBD(alpha=0.7, radius=0.5), Half(None)).losses(model, batch)  # type: ignore[arg-type]
    assert torch.autograd.grad(loss.sum(), model.w)[0].item() == pytest.approx(0.3 * 3 + 0.7 * 3.5)
    assert loss.item() == pytest.approx(4.5)


def test_it_weakens_the_backdoor(scene: Scene) -> None:
    before = copy.deepcopy(scene.model.state_dict())
    accuracy, attack = scene.numbers(scene.model)
    assert attack > 0.9  # the premise
    method = replace(SHORT, shares=(0.05,), largest_drop=1.0)
    repaired = scene.numbers(method.repair(scene.model, scene.clean, scene.task, scene.run))
    assert all(torch.equal(before[k], v) for k, v in scene.model.state_dict().items())
    assert repaired[1] < attack - 0.3
    assert repaired[0] > accuracy - 0.1
