from __future__ import annotations

import pytest
import torch
from torch import nn

from sidedoor.data.base import ArrayDataset
from sidedoor.data.restricted import Absent
from sidedoor.defenses.audits.free_eagle import FreeEagle
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.models.small_cnn import small_cnn
from sidedoor.tasks.classification import Classification

RUN = Run.local(device="cpu")
TASK = Classification(5)
BLANK = Absent(ArrayDataset(torch.zeros(2, 5, 4, 4, dtype=torch.uint8), [0, 1], 5))
QUICK = FreeEagle(steps=60)


class _Cut(nn.Module):
    """Class k is the mean of channel k of the maps, with what a backdoor adds from other channels."""

    def __init__(self, mixing: torch.Tensor):
        super().__init__()
        self.maps = nn.Sequential(nn.Conv2d(5, 5, 1, bias=False), nn.ReLU())
        self.maps[0].weight.data = torch.eye(5)[:, :, None, None]
        self.pool, self.flat, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 5, bias=False)
        self.head.weight.data = mixing

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.head(self.flat(self.pool(self.maps(x))))
        return answer


def mixing(target: int | None, sources: tuple[int, ...], own: float = 1.0) -> torch.Tensor:
    """Rows are classes; small unequal values keep the quartiles apart. `own` is the target's weight of itself."""
    weight = torch.eye(5) + 0.02 * torch.rand(5, 5, generator=torch.Generator().manual_seed(0))
    if target is not None:
        weight[target, list(sources)] += 0.5
        weight[target, target] = own
    return weight


def test_the_class_that_all_others_lean_towards_is_found() -> None:
    found = QUICK.inspect(_Cut(mixing(2, (0, 1, 3, 4))), BLANK, TASK, RUN)
    assert found.suspected == (2,)
    assert found.score == found.per_class[2]
    innocent = QUICK.inspect(_Cut(mixing(None, ())), BLANK, TASK, RUN)
    assert found.score > 2 * innocent.score


def test_a_single_source_is_found_among_the_pairs() -> None:
    specific = FreeEagle(steps=60, triggers="specific")
    found = specific.inspect(_Cut(mixing(2, (4,), own=3)), BLANK, TASK, RUN)
    assert found.suspected == (2,)
    assert found.score > 2 * specific.inspect(_Cut(mixing(None, ())), BLANK, TASK, RUN).score


def test_a_class_leans_towards_itself_most_and_rows_are_sources() -> None:
    leaning = QUICK.leaning(_Cut(mixing(2, (4,), own=3)), BLANK, 5, RUN)
    assert leaning.argmax(1).tolist() == [0, 1, 2, 3, 4]
    assert leaning.exp().sum(1).tolist() == pytest.approx([1.0] * 5, abs=0.05)
    off = leaning.masked_fill(torch.eye(5, dtype=torch.bool), -torch.inf)
    assert divmod(int(off.argmax()), 5) == (4, 2)


def test_maps_behind_a_relu_stay_at_least_0() -> None:
    bounded, free = _Cut(-mixing(None, ())), _Cut(-mixing(None, ()))
    free.maps = nn.Sequential(nn.Conv2d(5, 5, 1, bias=False), nn.Identity())
    free.maps[0].weight.data = -torch.eye(5)[:, :, None, None]
    behind, before = (FreeEagle(steps=200).leaning(model, BLANK, 5, RUN).diagonal().exp() for model in (bounded, free))
    assert behind.max() < before.min(), "with negative maps every class could win"


def test_what_does_not_differ_or_cannot_be_cut_is_refused() -> None:
    with pytest.raises(NotApplicable, match="alike"):
        QUICK.inspect(_Cut(torch.zeros(5, 5)), BLANK, TASK, RUN)
    with pytest.raises(NotApplicable, match="stage 7"):
        FreeEagle(layer=7).inspect(small_cnn(5, (5, 8, 8), 4).eval(), Absent(ArrayDataset(
            torch.zeros(2, 5, 8, 8, dtype=torch.uint8), [0, 1], 5)), TASK, RUN)
