from __future__ import annotations

import pytest
import torch
from backdoored_digits import TARGET, Scene
from torch import nn

from sidedoor.algorithms.features.cut import cut
from sidedoor.defenses.audits.abs import ABS, stamped, stimulated
from sidedoor.engine import Run
from sidedoor.types import PHOTO, Space

RUN = Run.local(device="cpu")


class _Planted(nn.Module):
    """Six units; unit u below 4 is a little for class u % 3, unit 4 raises class 1 by far, unit 5 all classes alike."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(1, 6, 1), nn.ReLU())
        self.stage[0].weight.data = torch.tensor([1.0, 1, 1, 1, 0.1, 1])[:, None, None, None]
        self.stage[0].bias.data.zero_()
        self.pool, self.flat, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3, bias=False)
        weight = torch.zeros(3, 6)
        weight[[0, 1, 2, 0], [0, 1, 2, 3]] = torch.tensor([1.0, 1.1, 1.2, 0.1])
        weight[1, 4], weight[:, 5] = 20.0, 5.0
        self.head.weight.data = weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.flat(self.pool(self.stage(x))))
        return logits


def test_the_planted_unit_is_the_first_candidate_and_one_for_all_classes_is_the_last() -> None:
    model = RUN.frozen(_Planted())
    x = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    found = stimulated(cut(model, (1, 4, 4)), x, torch.tensor([0, 2] * 4), 10, RUN)
    assert (found.unit[0], found.label[0]) == (4, 1)
    assert found.strength[0] > 10 * found.strength[1]
    assert found.unit.tolist()[1:5] == [2, 1, 0, 3]
    assert found.label.tolist()[1:5] == [2, 1, 0, 0]
    assert found.strength[-1] < 1e-4, "unit 5"
    assert stimulated(cut(model, (1, 4, 4)), x, torch.tensor([0, 2] * 4), 2, RUN).unit.tolist() == [4, 2]


def test_a_unit_of_which_all_images_are_of_its_class_is_no_candidate() -> None:
    model = RUN.frozen(_Planted())
    found = stimulated(cut(model, (1, 4, 4)), torch.rand(4, 1, 4, 4), torch.ones(4, dtype=torch.int64), 10, RUN)
    assert 1 not in found.label


def test_the_strength_is_the_lead_at_the_best_level() -> None:
    """Eight times the largest activation, of which class 1 gets 20 a unit."""
    x = torch.full((2, 1, 4, 4), 0.5)
    found = stimulated(cut(RUN.frozen(_Planted()), (1, 4, 4)), x, torch.tensor([0, 2]), 1, RUN)
    assert found.strength.item() == pytest.approx(8 * 0.5 * 20)


def test_a_trigger_excites_its_unit_within_the_bound_of_its_size() -> None:
    model = RUN.frozen(_Planted())
    x = torch.full((4, 1, 8, 8), 0.2)
    (trigger,) = ABS(steps=200, size=0.25).triggers(cut(model, (1, 8, 8)), torch.tensor([4]), x, PHOTO, RUN)
    assert trigger[0].mean().item() == pytest.approx(0.25, abs=0.03)
    assert (trigger[:1] * trigger[1:]).mean() > 0.2, "white where it covers"


def test_a_trigger_replaces_what_its_mask_covers() -> None:
    x = torch.tensor([0.2, 0.6]).view(2, 1, 1, 1).expand(2, 1, 1, 3)
    trigger = torch.tensor([[0.0, 1.0, 0.5], [1.0, 1.0, 0.0]]).view(1, 2, 1, 3)
    moved = stamped(x, trigger, Space(-1.0, 1.0, 255))
    torch.testing.assert_close(moved[:, 0, 0], torch.tensor([[0.2, 1.0, -0.4], [0.6, 1.0, -0.2]]))
    assert stamped(x, trigger.expand(3, 2, 1, 3), PHOTO).shape == (6, 1, 1, 3)


def test_a_backdoored_model_scores_above_its_sibling(scene: Scene) -> None:
    method = ABS(candidates=1, steps=100, samples=10, stages=1)
    found, innocent = (method.inspect(model, scene.clean, scene.task, scene.run)
                       for model in (scene.model, scene.sibling))
    assert found.score == found.per_class[TARGET] > 0.8
    assert innocent.score < 0.5
    assert {exhibit.name for exhibit in found.exhibits} == {"trigger", "mask"}
