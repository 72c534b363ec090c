from __future__ import annotations

import pytest
import torch
from backdoored_digits import TARGET, Scene
from torch import nn

from sidedoor.data.base import ArrayDataset, Dataset
from sidedoor.data.restricted import Absent
from sidedoor.defenses.audits.mm_bd import MMBD
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.tasks.classification import Classification

RUN = Run.local(device="cpu")
SMALL = MMBD(starts=3, steps=30)


class _Linear(nn.Module):
    """Class k sees pixel k alone."""

    def __init__(self, gains: list[float]):
        super().__init__()
        self.gains = torch.tensor(gains)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, : len(self.gains)] * self.gains


def blank(classes: int = 10) -> Dataset:
    return Absent(ArrayDataset(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), [0, 1], classes))


def test_the_margin_of_a_class_is_reached_at_a_corner_of_the_box() -> None:
    """Its own pixel white, all others black."""
    margins = MMBD(starts=2, steps=80).margins(_Linear([1.0, 2, 3, 4]), blank(4), 4, RUN)
    assert margins.tolist() == pytest.approx([1, 2, 3, 4], rel=1e-3)


def test_a_class_that_reaches_three_times_the_margin_is_found() -> None:
    model = _Linear([1.0] * 6 + [3.0] + [1.1, 0.9, 1.05])
    found = MMBD(starts=2, steps=80).inspect(model, blank(), Classification(10), RUN)
    assert found.suspected == (6,)
    assert found.score == found.per_class[6] == pytest.approx(3, rel=0.1)
    assert found.paper is not None
    assert found.paper.flagged


def test_the_rule_flags_most_planted_margins_and_few_equal_ones() -> None:
    draws = 10 + torch.randn(10, 10, generator=torch.Generator().manual_seed(0))
    rules = [MMBD().rule(draw) for draw in draws]
    assert sum(rule.flagged for rule in rules if rule) <= 4, "of nine numbers the fit is narrow"
    draws[:, 4] = 30
    assert all(rule.flagged for rule in map(MMBD().rule, draws) if rule)


def test_without_a_fit_there_is_no_rule() -> None:
    assert MMBD().rule(torch.tensor([1.0, 1.0, 1.0, 1.0, 5.0])) is None
    assert MMBD().rule(torch.tensor([1.0, 2.0, 5.0])) is None


def test_where_most_classes_never_win_nothing_can_be_said() -> None:
    with pytest.raises(NotApplicable, match="half of 4 classes"):
        SMALL.inspect(_Linear([1.0, 0, 0, 0]), blank(4), Classification(4), RUN)


def test_a_backdoored_model_scores_above_its_sibling(scene: Scene) -> None:
    found, innocent = (SMALL.inspect(model, Absent(scene.clean), scene.task, scene.run)
                       for model in (scene.model, scene.sibling))
    assert found.suspected == (TARGET,)
    assert found.score > 1.2 * innocent.score
