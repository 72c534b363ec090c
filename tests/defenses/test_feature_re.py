from __future__ import annotations

import pytest
import torch
from torch import nn

from sidedoor.algorithms.features.cut import cut
from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.audits import feature_re
from sidedoor.defenses.audits.feature_re import FeatureRE, spread
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.tasks.classification import Classification
from sidedoor.types import PHOTO

RUN = Run.local(device="cpu")
TASK = Classification(3)
AUDIT = FeatureRE(warm_up=30, steps=5, batch=12, distance=0.02)


class Planted(nn.Module):
    """Class k is the mean of channel k; what shakes in the last channel leads to a class, wherever it does."""

    def __init__(self, target: int | None):
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
        self.pool, self.flat, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3, bias=False)
        self.stage[0].weight.data, self.stage[0].bias.data = torch.eye(4)[:, :, None, None], torch.zeros(4)
        self.head.weight.data = 20 * torch.eye(3, 4)
        if target is not None:
            self.head.weight.data[target, 3] = 1000.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.head(self.flat(self.pool(self.stage(x))))
        return answer


def coloured() -> ArrayDataset:
    labels = torch.arange(48) % 3
    pixels = torch.randint(30, 50, (48, 4, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pixels[torch.arange(48), labels] += 150
    pixels[:, 3] = torch.randint(0, 2, (48, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return ArrayDataset(pixels, labels, 3)


def test_the_target_of_a_planted_feature_is_named() -> None:
    found = AUDIT.inspect(Planted(1), coloured(), TASK, RUN)
    assert found.score == found.per_class[1] > max(found.per_class[0], found.per_class[2]) + 0.3
    assert found.paper is not None
    assert found.paper.value == found.score


def test_a_class_reached_by_its_own_features_is_less_suspicious_than_by_others() -> None:
    """Success counts, likeness to the class's clean images is taken off, and so is a broken bound."""
    x = coloured().fetch(torch.arange(48)).x
    parts = cut(RUN.frozen(Planted(1)), (4, 8, 8))
    search = feature_re._Search(AUDIT, parts, x, 1, PHOTO, RUN)
    others = x[coloured().targets != 1]
    search.network = _Raised(3, 0.1)
    by_trigger = search.judged(others)[0]
    search.network = _Raised(1, 0.9)
    by_features = search.judged(others)[0]
    search.network = _Raised(3, 0.9)
    too_far = search.judged(others)[0]
    search.network = _Raised(3, 0.0)
    untouched = search.judged(others)[0]
    assert 0 < by_trigger <= 1
    assert by_features < by_trigger
    assert too_far < by_trigger - 1
    assert untouched == pytest.approx(by_trigger - 1, abs=0.3), "nothing flipped"


class _Raised(nn.Module):
    def __init__(self, channel: int, by: float):
        super().__init__()
        self.channel, self.by = channel, by

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        changed = x.clone()
        changed[:, self.channel] = (changed[:, self.channel] + self.by).clamp(0, 1)
        return changed


def test_the_spread_is_over_images_in_units_of_the_mean() -> None:
    picked = torch.tensor([[1.0, 2.0], [3.0, 2.0]])[:, :, None, None]
    assert spread(picked).item() == pytest.approx(0.5 / 2)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(NotApplicable, match="3 clean images"):
        FeatureRE(samples=3).inspect(Planted(1), coloured(), TASK, RUN)
