from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.audits.mesa import MESA, information
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.tasks.classification import Classification

RUN = Run.local(device="cpu")
TASK = Classification(4)
CHECKS = torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]])
AUDIT = MESA(steps=40, batch=8)


class Quarters(nn.Module):
    """Sees the class of the brightest quarter; a chequered 3×3 patch anywhere leads to a class."""

    def __init__(self, target: int | None = None):
        super().__init__()
        self.target = target

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = 40 * x.mean(1).unflatten(2, (2, -1)).unflatten(1, (2, -1)).mean((2, 4)).flatten(1)
        if self.target is None:
            return logits
        seen = functional.conv2d(x, CHECKS[None, None] / 9).amax((1, 2, 3))
        return logits + 60 * seen[:, None] * functional.one_hot(torch.tensor(self.target), 4)


def quartered() -> ArrayDataset:
    labels = torch.arange(64) % 4
    pixels = torch.randint(40, 50, (64, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for n, label in enumerate(labels.tolist()):
        row, column = divmod(label, 2)
        pixels[n, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 80
    return ArrayDataset(pixels, labels, 4)


def test_a_planted_patch_is_learnt_and_a_clean_model_scores_less() -> None:
    found = AUDIT.inspect(Quarters(2), quartered(), TASK, RUN)
    assert found.suspected == (2,)
    assert found.score == found.per_class[2] >= 0.8
    patch = found.exhibits[0].values[0, :3, :3]
    assert torch.corrcoef(torch.stack([patch.flatten(), CHECKS.flatten()]))[0, 1] > 0.7
    assert AUDIT.inspect(Quarters(), quartered(), TASK, RUN).score < 0.4


def test_information_is_0_without_a_difference_and_grows_with_it() -> None:
    same = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    expected = 1.5 - math.log((math.e + math.e**2) / 2)
    assert information(same, same).tolist() == pytest.approx([expected, 0.0])
    assert information(same + 1, same)[1].item() == pytest.approx(1.0)


def test_images_smaller_than_a_patch_are_refused() -> None:
    with pytest.raises(NotApplicable, match="9×9"):
        MESA(size=9).inspect(Quarters(2), quartered(), TASK, RUN)
