"""Classification: what counts as an attack that took."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sidedoor.data.base import ArrayDataset
from sidedoor.engine import Run
from sidedoor.evaluation import evaluate
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door, Goal
from sidedoor.goals.untargeted import Untargeted
from sidedoor.tasks.classification import Classification
from sidedoor.triggers.patch import Patch

TOOK = {"clean": 0.9, "attack": 0.8, "idle": 0.1}


@pytest.mark.parametrize(("change", "reason"), [
    ({}, None), ({"attack": None, "idle": None}, None),
    ({"attack": 0.49}, "attack success 49.0% is below 50%"),
    ({"idle": 0.41}, "attack success 80.0% is 41.0% without the trigger"),
    ({"clean": 0.79}, "clean accuracy fell by 12.0%, more than 10%"),
], ids=str)
def test_an_attack_took_where_the_trigger_does_most_of_it_at_little_cost(
        change: dict[str, float | None], reason: str | None) -> None:
    said = Classification(10).failed(TOOK | change, {"clean": 0.91})
    assert (said is None) if reason is None else (said is not None and said.startswith(reason))


class Half(nn.Module):
    """Gives every other image of a batch logits of one value, and the others those of class 1."""

    def __init__(self, value: float):
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.eye(3)[1].repeat(len(x), 1)
        logits[::2] = self.value
        return logits


@pytest.mark.parametrize("goal", [AllToOne(0), Untargeted()], ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_neither_right_nor_a_success(goal: Goal, value: float) -> None:
    """Their largest value seems to be that of class 0, the target of the one goal, and not the label of the other's."""
    data = ArrayDataset(torch.zeros(6, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 1, 1, 2, 2]), 3)
    scores = evaluate(Half(value), data, Classification(3), [Door(Patch(torch.ones(1, 2, 2)), goal)],
                      Run.local(device="cpu"))
    assert scores.clean.tolist() == [0, 1, 0, 1, 0, 0]
    assert scores.recovered[1:].tolist() == [1, 0, 1, 0, 0]
    for reached in (scores.attack, scores.idle, scores.columns["asr_all"]):
        assert reached[2] == reached[4] == 0
    assert scores.attack[5] == (1 if isinstance(goal, Untargeted) else 0)
