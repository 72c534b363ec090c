"""Cognitive Distillation as a filter: rows that the model knows by few pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.filters import cognitive_distillation_filter
from sidedoor.defenses.filters.cognitive_distillation_filter import CognitiveDistillationFilter
from sidedoor.engine import Run
from sidedoor.tasks.classification import Classification


class Glance(nn.Module):
    """Class 1 where the first pixels are white; else class 0, by the mean of the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        stamped = torch.relu(x[:, 0, :2, :2] - 0.9).mean((1, 2)) * 200
        return torch.stack([10 * x[:, 0].mean((1, 2)) * (1 - stamped / 20).clamp(min=0), stamped], 1)


def test_rows_whose_answer_rests_on_few_pixels_are_suspicious(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost is chosen on all rows, of which a fifth carries the white square."""
    monkeypatch.setattr(cognitive_distillation_filter, "inspection_model", lambda *_: Glance())
    images = (100 + 100 * torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))).to(torch.uint8)
    images[:8, :, :2, :2] = 255
    data = ArrayDataset(images, [1] * 8 + [0] * 32, 2)
    score = CognitiveDistillationFilter(samples=16, steps=40, smoothness=0.1).score(
        data, Classification(2), Glance, Run.local(device="cpu"))
    assert score[:8].min() > score[8:].max()
    assert 0.5 < score[8:].median() < 0.9  # 0.7 of the pixels are left out of the median mask
