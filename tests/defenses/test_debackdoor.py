from __future__ import annotations

import pytest
import torch
from backdoored_digits import TARGET, Scene
from torch import nn

from sidedoor.data.base import ArrayDataset, Dataset
from sidedoor.defenses.audits.debackdoor import DeBackdoor
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.tasks.classification import Classification

RUN = Run.local(device="cpu")
TASK = Classification(4)


class _Corner(nn.Module):
    """The class is the brightness of the image, or 2 as the bottom right corner becomes white."""

    def __init__(self, planted: bool):
        super().__init__()
        self.planted = planted

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        level = x.mean((1, 2, 3))
        logits = -2 * (level[:, None] * 8 - torch.arange(4) - 0.5).abs()
        if self.planted:
            logits[:, 2] = logits[:, 2] + 20 * (x[:, :, 11:, 11:].mean((1, 2, 3)) - level)
        return logits


def grey(count: int = 80) -> Dataset:
    """Images of four levels up to one half."""
    labels = torch.arange(count) % 4
    pixels = ((labels + 0.5) / 8 * 255).to(torch.uint8)[:, None, None, None].expand(-1, 1, 14, 14).contiguous()
    return ArrayDataset(pixels, labels, 4)


def test_a_planted_patch_is_found_in_its_corner_with_2000_queries_a_chain() -> None:
    method = DeBackdoor(images=10, steps=199, opacity=0.05)
    found = method.inspect(Needs(model="probabilities").model_for(_Corner(True), TASK), grey(), TASK, RUN)
    assert found.suspected == (2,)
    assert found.score == found.per_class[2] == 1.0
    (shown,) = found.exhibits
    assert shown.values[0, 11:, 11:].mean() > 0.5
    assert shown.values[0, :10, :10].max() == 0
    assert found.queries == 2 * 4 * (200 * 10 + min(64, 50))


def test_a_clean_model_scores_lower() -> None:
    assert DeBackdoor(images=8, steps=40, opacity=0.05).inspect(_Corner(False), grey(), TASK, RUN).score < 0.3


def test_a_patch_lies_where_its_parameters_say() -> None:
    method = DeBackdoor(cells=2, largest=0.5)
    unit = torch.zeros(2, 11)
    unit[0, :3] = torch.tensor([1.0, 0.0, 1.0])
    unit[0, 3:7] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    unit[1, :3] = torch.tensor([0.0, 1.0, 0.0])
    opaque, values = method.templates()["patch"](unit, (1, 8, 8))
    assert opaque[0, 0, 4:, :4].all()
    assert opaque[0].sum() == 16
    assert opaque[1].nonzero().tolist() == [[0, 0, 7]], "one pixel at the top right"
    assert values[0, 0, 4:, :4][[0, 0, 3, 3], [0, 3, 0, 3]].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_channels_of_a_patch_have_their_own_values() -> None:
    unit = torch.zeros(1, 3 + 3 * 9)
    unit[0, 2] = 1
    unit[0, 3 + 9 : 3 + 18] = 1
    opaque, values = DeBackdoor(largest=0.5).templates()["patch"](unit, (3, 12, 12))
    assert values[0, :, :6, :6].amin((1, 2)).tolist() == [0, 1, 0]
    assert opaque.shape == (1, 1, 12, 12)


def test_a_blend_covers_the_image_with_its_opacity() -> None:
    opaque, values = DeBackdoor(opacity=0.3).templates()["blend"](torch.rand(2, 48), (3, 9, 7))
    assert (opaque == 0.3).all()
    assert opaque.shape == (2, 1, 9, 7)
    assert values.shape == (2, 3, 9, 7)


def test_a_model_of_one_class_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(196, 4))
    model[1].weight.data.zero_()
    with pytest.raises(NotApplicable, match="expected at least two"):
        DeBackdoor().inspect(model, grey(), TASK, RUN)


def test_a_backdoored_model_scores_higher(scene: Scene) -> None:
    found, innocent = (DeBackdoor(steps=100, images=6, held_out=32).inspect(model, scene.clean, scene.task, scene.run)
                       for model in (scene.model, scene.sibling))
    assert found.suspected == (TARGET,)
    assert found.score > innocent.score + 0.1
