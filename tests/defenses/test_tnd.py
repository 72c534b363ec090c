from __future__ import annotations

import pytest
import torch
from backdoored_digits import TARGET, Scene
from torch import nn

from sidedoor.data.base import ArrayDataset
from sidedoor.data.restricted import Absent
from sidedoor.defenses.audits.df_tnd import DFTND
from sidedoor.defenses.audits.dl_tnd import DLTND
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.tasks.classification import Classification
from sidedoor.types import PHOTO

RUN = Run.local(device="cpu")
BLANK = Absent(ArrayDataset(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), [0, 1], 4))


class _Units(nn.Module):
    """Unit k is pixel k with a gain and gives class k; the units can be as many as there are pixels."""

    def __init__(self, gains: list[float]):
        super().__init__()
        self.gains = torch.tensor(gains)
        self.head = nn.Linear(len(gains), len(gains), bias=False)
        self.head.weight.data = torch.eye(len(gains))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(x.flatten(1)[:, : len(self.gains)] * self.gains)
        return logits


def test_the_target_stands_out_and_a_sibling_has_none(scene: Scene) -> None:
    method = DLTND(eps=0.1, steps=20, samples=20)
    found, innocent = (method.inspect(model, scene.clean, scene.task, scene.run)
                       for model in (scene.model, scene.sibling))
    assert found.suspected == (TARGET,)
    assert found.score == found.per_class[TARGET] > 1.2 * innocent.score


def test_a_model_that_sees_one_pixel_a_class_is_moved_alike_by_both() -> None:
    x = torch.full((6, 1, 4, 4), 0.5) + 0.01 * torch.eye(4).repeat(2, 1)[:6].repeat(1, 4).view(6, 1, 4, 4)
    pool = torch.tensor([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
    similar = DLTND(eps=0.1, steps=10).similarities(_Units([3.0] * 4), x, pool, torch.arange(4), PHOTO, RUN)
    assert similar.shape == (4, 3)
    assert similar.min() > 0.97


def test_a_model_of_one_class_is_refused(scene: Scene) -> None:
    with pytest.raises(NotApplicable, match=r"all \d+ images class 0"):
        DLTND().inspect(_Units([0.0] * 4), scene.clean, Classification(4), RUN)


def test_the_class_of_the_unit_that_rises_most_is_found() -> None:
    method = DFTND(steps=100, sparsity=1.0)
    found = method.inspect(_Units([1.0, 1.0, 4.0, 1.0]), BLANK, Classification(4), RUN)
    assert found.suspected == (2,)
    assert found.score == found.per_class[2]
    innocent = method.inspect(_Units([1.0, 1.05, 1.1, 1.0]), BLANK, Classification(4), RUN)
    assert found.score > 2 * innocent.score


def test_a_rise_is_bounded_by_what_the_pixel_can_do_and_nothing_rises_under_a_dear_mask() -> None:
    model = _Units([1.0, 1.0, 4.0, 1.0])
    rise = DFTND(steps=100, sparsity=0.0).rises(model, BLANK, RUN)
    assert 1 < rise[2] <= 4 * 0.9
    dear = DFTND(steps=100, sparsity=1e6).rises(model, BLANK, RUN)
    assert dear.abs().max() < 0.1


def test_logits_that_do_not_move_are_refused() -> None:
    with pytest.raises(NotApplicable, match="do not move"):
        DFTND(steps=2).inspect(_Units([0.0] * 4), BLANK, Classification(4), RUN)
