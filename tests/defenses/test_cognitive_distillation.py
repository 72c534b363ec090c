from __future__ import annotations

import torch
from torch import nn

from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.detectors.cognitive_distillation import CognitiveDistillation
from sidedoor.engine import Run
from sidedoor.tasks.classification import Classification


class Glance(nn.Module):
    """Class 1 where the first pixels are white; else class 0, by the mean of the whole image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stamped = torch.relu(x[:, 0, :2, :2] - 0.9).mean((1, 2)) * 200
        return torch.stack([10 * x[:, 0].mean((1, 2)) * (1 - stamped / 20).clamp(min=0), stamped], 1)


def test_an_image_whose_answer_rests_on_few_pixels_is_suspicious() -> None:
    """The contract's data cannot show it: their stripes are a simpler cue than the white square."""
    images = (100 + 100 * torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))).to(torch.uint8)
    data = ArrayDataset(images, [0] * 24, 2)
    detect = CognitiveDistillation(samples=8, steps=40, smoothness=0.1).fit(Glance(), data, Classification(2),
                                                                         Run.local(device="cpu"))
    x, _, index = data.fetch(torch.arange(12))
    stamped = x.clone()
    stamped[:, :, :2, :2] = 1
    clean, found = detect(x, index), detect(stamped, index)
    assert found.min() > clean.max()
    assert 0.5 < clean.median() < 0.9  # 0.7 of the pixels are left out of the median clean mask
