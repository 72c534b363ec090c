from __future__ import annotations

import pytest
import torch
from backdoored_digits import TARGET, Scene
from torch import nn

from sidedoor.algorithms.adversarial.universal_towards import (
    Steps,
    balanced,
    flip_rates,
    margin,
    pools,
    universal_towards,
)
from sidedoor.data.base import ArrayDataset, Dataset
from sidedoor.defenses.audits.shortcut import Shortcut
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.tasks.classification import Classification
from sidedoor.types import MEASUREMENT, PHOTO

RUN = Run.local(device="cpu")


class _Quarters(nn.Module):
    """Sees the class of the brightest quarter, unless the middle of the image is brighter than grey."""

    def __init__(self, planted: int | None = None):
        super().__init__()
        self.planted = planted

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        quarters = 10 * x.mean(1).unflatten(2, (2, -1)).unflatten(1, (2, -1)).mean((2, 4)).flatten(1)
        if self.planted is not None:
            centre = x[:, 0, 3:5, 3:5].mean((1, 2)) - 0.5
            quarters[:, self.planted] = quarters[:, self.planted] + 300 * centre
        return quarters


def quartered(count: int = 60) -> Dataset:
    """Grey images with one bright quarter each."""
    pixels, labels = torch.full((count, 1, 8, 8), 60, dtype=torch.uint8), torch.arange(count) % 4
    for image, label in zip(pixels, labels.tolist(), strict=True):
        row, column = divmod(label, 2)
        image[0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 110
    pixels[:, :, 3:5, 3:5] = 127
    return ArrayDataset(pixels, labels, 4)


def test_a_planted_shortcut_is_found_and_a_model_without_is_not_suspicious() -> None:
    audit = Shortcut(eps=0.05)
    found = audit.inspect(_Quarters(2), quartered(), Classification(4), RUN)
    assert found.suspected == (2,)
    assert found.score == found.per_class[2] >= 0.9
    assert audit.inspect(_Quarters(), quartered(), Classification(4), RUN).score < 0.6


def test_the_picture_shows_where_the_shortcut_is() -> None:
    (shown,) = Shortcut(eps=0.05).inspect(_Quarters(2), quartered(), Classification(4), RUN).exhibits
    assert (shown.values[0, 3:5, 3:5] > 0.6).all()
    assert shown.values[0, 4:, :4].mean() > 0.5 > shown.values[0, :4, 4:].mean(), "the class's quarter, and another"


def test_a_backdoored_model_scores_above_its_sibling(scene: Scene) -> None:
    audit = Shortcut(eps=0.1, steps=20, batch=16)
    found, innocent = (audit.inspect(model, scene.clean, scene.task, scene.run)
                       for model in (scene.model, scene.sibling))
    assert found.suspected == (TARGET,)
    assert found.score > innocent.score + 0.1


def test_without_a_step_nothing_moves_and_a_model_of_one_class_is_refused() -> None:
    x, labels = quartered().fetch(torch.arange(8)).x, torch.arange(4)
    delta = universal_towards(_Quarters(), x, torch.zeros(4, 2, dtype=torch.int64), labels, Steps(1e-9, 1, 2), PHOTO,
                              RUN)
    assert delta.abs().max() <= 1e-9
    with pytest.raises(NotApplicable, match="all 30 images class 2"):
        Shortcut().inspect(nn.Sequential(_Quarters(), _Constant()), quartered(), Classification(4), RUN)


class _Constant(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0 + torch.tensor([0.0, 0, 1, 0])


def test_images_without_a_range_are_refused() -> None:
    data = quartered()
    data.space = MEASUREMENT
    with pytest.raises(NotApplicable, match="bounded range"):
        Shortcut().inspect(_Quarters(), data, Classification(4), RUN)


def test_the_flip_rate_counts_images_of_the_pool_beyond_the_boundary() -> None:
    x, labels = quartered().fetch(torch.arange(4)).x, torch.tensor([1])
    nothing = torch.zeros(1, 1, 8, 8)
    for pool, share in (([[1]], 1.0), ([[0, 2]], 0.0), ([[1, 2, 3, 0]], 0.25)):
        assert flip_rates(_Quarters(), x, torch.tensor(pool), labels, nothing, PHOTO, RUN).tolist() == [share]


def test_the_margin_is_over_the_best_other_class() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]])
    assert margin(logits, torch.tensor([1, 0])).tolist() == [1.0, -2.0]


def test_a_pool_has_as_many_images_of_rare_classes() -> None:
    source = torch.tensor([0] * 90 + [1] * 10 + [2] * 10)
    weights = balanced(source, (source != 2).float()[None])
    assert weights[0, source == 0].sum().item() == pytest.approx(weights[0, source == 1].sum().item())
    assert weights[0, source == 2].sum() == 0
    rows = pools(weights, 10, torch.Generator().manual_seed(0))
    assert rows.shape == (1, 10)
    assert len(rows.unique()) == 10
    assert pools(weights, 1000, torch.Generator().manual_seed(0)).shape == (1, 100)
