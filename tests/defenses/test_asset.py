"""ASSET: rows that no clean sample is like stand out, and what is learned against them stays with them."""

from __future__ import annotations

import torch
from poisoned_digits import Suspect
from torch import Tensor, nn

from sidedoor.data.base import ArrayDataset, Subset
from sidedoor.defenses.filters.asset import ASSET, Offset, unlike


def test_rows_unlike_clean_samples_stand_out_among_rows_that_are_like_them() -> None:
    rng = torch.Generator().manual_seed(0)
    known, rows = torch.randn(200, 16, generator=rng), torch.randn(1000, 16, generator=rng)
    rows[:40, 3] += 8
    torch.manual_seed(0)
    found = unlike(known, rows, ASSET().network(16), 30)
    assert found[:40].min() > 2
    assert (found[40:] > 2).float().mean() < 0.1
    assert found.quantile(0.5).abs() < 1e-5


class _Table(nn.Module):
    """Logits of each image by its brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([[30.0, 0], [30.0, 0], [0, 0]]))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.logits[(x[:, 0, 0, 0] * 255).round().long()]
        return found


def test_descent_raises_the_loss_of_suspicious_rows_however_well_they_fit() -> None:
    """Rows of brightness 0 are suspicious, those of 1 are not, and clean samples have 2; all are of class 0."""
    images = torch.tensor([0, 1, 0, 1], dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    base = ArrayDataset(images, [0] * 4, 2)
    clean = ArrayDataset(torch.full((4, 1, 2, 2), 2, dtype=torch.uint8), [0] * 4, 2)
    rows = torch.tensor([2, 1, 3])  # positions are not rows
    data = Subset(base, rows)
    objective, model = Offset(clean, data, torch.tensor([True, False, False])), _Table()
    (loss,) = objective.losses(model, data.fetch(torch.arange(3)))
    loss.backward()
    gradient = model.logits.grad
    assert gradient is not None
    torch.testing.assert_close(gradient, torch.tensor([[1.0, -1], [0, 0], [-0.5, 0.5]]))


def test_poisoned_digits_score_highest(suspect: Suspect) -> None:
    score = ASSET().score(suspect.train, suspect.clean, suspect.task, suspect.build, suspect.run)
    assert suspect.auroc(score) > 0.95
