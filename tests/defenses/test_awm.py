"""AWM: bounded masks that become weights, and a bounded perturbation that raises the loss."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.repair.awm import AWM, _Masking, add_masks
from sidedoor.engine import Recipe, Run
from sidedoor.errors import NotApplicable
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised

TASK = Classification(2)


def build() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2))


def data() -> ArrayDataset:
    """Noise around the middle, whose first half of pixels is brighter in class 1; of the corner the label says nothing.
    """
    labels = torch.arange(80) % 2
    images = torch.randint(96, 160, (80, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    images[:, :, :4] += 24 * labels[:, None, None, None]
    return ArrayDataset(images.to(torch.uint8), labels, 2)


def trained() -> tuple[nn.Module, Run]:
    run = Run.local(Recipe(epochs=10, batch=20, lr=0.1), device="cpu")
    return run.fit(run.build(build), data(), Supervised(TASK), name="victim"), run


def test_a_step_of_the_perturbation_raises_the_loss_within_its_bound() -> None:
    model, _ = trained()
    masks = list(add_masks(model).values())
    batch = data().fetch(torch.arange(80))

    def loss(objective: _Masking) -> float:
        return TASK.loss(model, batch._replace(x=objective.added(batch.x, objective.delta))).mean().item()

    objective = _Masking(AWM(bound=0.05), masks, data(), TASK)
    before = loss(objective)
    for _ in range(5):
        objective.delta = objective.raised(model, batch)
        assert objective.delta.abs().mean().item() <= 0.05 + 1e-6
    assert loss(objective) > before + 0.03
    assert objective.added(torch.zeros(1, 1, 8, 8), torch.full((1, 8, 8), -3.0)).min() == 0


def test_masks_of_all_layers_but_the_head_are_trained_and_stay_within_zero_and_one() -> None:
    model, _ = trained()
    masks = add_masks(model)
    assert list(masks) == [model[1]]
    assert [p.shape for p in model.parameters() if p.requires_grad] == [(8, 64)]
    (mask,) = masks.values()
    with torch.no_grad():
        mask.mask[0], mask.mask[1] = -2.0, 3.0
    _Masking(AWM(), [mask], data(), TASK).losses(model, data().fetch(torch.arange(8)))
    assert (mask.mask.min(), mask.mask.max()) == (0, 1)


def test_weights_shrink_where_the_perturbation_uses_them_and_the_rest_stays() -> None:
    model, run = trained()
    repaired = AWM(mask_steps=100, alpha=0.5, bound=0.05, gamma=0.001).repair(model, data(), TASK, run)
    assert repaired.state_dict().keys() == model.state_dict().keys()
    ratio = repaired[1].weight / model[1].weight
    assert -1e-6 <= ratio.min() < 0.5 < ratio.max() <= 1 + 1e-6
    for name in ("1.bias", "3.weight", "3.bias"):
        assert torch.equal(repaired.state_dict()[name], model.state_dict()[name])
    assert all(p.requires_grad for p in repaired.parameters())


def test_a_model_of_a_head_alone_is_refused() -> None:
    with pytest.raises(NotApplicable, match="no convolution or linear layer before its head"):
        add_masks(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)))
