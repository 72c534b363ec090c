"""Explanations of a model at hand: the figures, the table, and the page."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import Tensor, nn

from sidedoor.apps.explain import Explained, explain, explainers_of
from sidedoor.apps.explain_page import HEADINGS, _largest, markdown, page
from sidedoor.data.base import ArrayDataset
from sidedoor.engine import Recipe, Run
from sidedoor.errors import ConfigError
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door
from sidedoor.tasks.classification import Classification
from sidedoor.triggers.patch import Patch


class Corner(nn.Module):
    """Class 0 where the last 3×3 pixels are white, or `also` anywhere are."""

    def __init__(self, also: int = 1000):
        super().__init__()
        self.also, self.weight = also, nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        white = torch.relu(self.weight * x[..., -3:, -3:].amin((1, 2, 3)))
        many = ((x > 0.95).float().sum((1, 2, 3)) >= self.also).float()
        return torch.stack([white + many, torch.full_like(white, 0.9)], 1)


def found(model: nn.Module, methods: tuple[str, ...] = ("gradient", "grad_cam")) -> Explained:
    pixels = torch.randint(20, 120, (20, 1, 10, 10), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    door = Door(Patch(torch.ones(1, 3, 3)), AllToOne(0))
    return explain(explainers_of(methods), model, None, ArrayDataset(pixels, [1] * 20, 2), Classification(2), door, 10,
                   Run.local(Recipe(), device="cpu"))


def test_a_table_stands_beside_the_check_that_it_rests_on() -> None:
    strict, loose = found(Corner()), found(Corner(also=9))
    assert (strict.deletion.trigger, strict.deletion.elsewhere) == (1.0, 0.0)
    assert "The trigger is the reason." in markdown(strict)
    assert loose.generalisation is not None
    assert strict.generalisation is not None
    assert loose.generalisation > 2 * strict.generalisation
    lines = [line for line in markdown(strict).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 2 + 3
    assert {line.count("|") for line in lines} == {len(HEADINGS) + 1}
    assert "| gradient | model |" in lines[2]
    assert "not applicable: Corner has no" in lines[3]  # no maps


def test_a_trigger_that_is_not_the_whole_reason_is_said_so() -> None:
    found_ = found(Corner())
    weak = Explained(**{**vars(found_), "deletion": type(found_.deletion)(1.0, 0.02, 10, 10)})
    assert "not the whole reason" in markdown(weak)


def test_json_has_all_figures() -> None:
    given = found(Corner()).to_json()
    read = json.loads(json.dumps(given, allow_nan=False))
    assert [row["of"] for row in read["rows"]] == ["model", "model", "none", "none", "none"]
    assert read["rows"][0]["found"]["iou"] > read["chance"]
    assert read["images"] == 10
    assert read["ladder"][0]["name"] == "itself"


def test_the_page_carries_its_pictures_and_runs_nothing() -> None:
    text = page(found(Corner()), 3)
    assert "<script" not in text
    # Of each image: itself, with the trigger, the trigger; a map and its mask of gradient and three baselines.
    assert len(re.findall(r'src="data:image/png;base64,', text)) == 3 * (3 + 2 * 4)
    assert not re.findall(r'(?:src|href)="(?!data:)', text)


def test_pixels_that_tie_are_grey() -> None:
    values = torch.tensor([[3.0, 2, 1], [1, 1, 0], [0, 0, 0]])
    assert _largest(values, 2).flatten().tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert _largest(values, 3).flatten().tolist() == [1, 1, 0.5, 0.5, 0.5, 0, 0, 0, 0]


def test_unknown_explainers_are_met_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown explainer 'gradcam'; did you mean grad_cam"):
        explainers_of(["gradcam"])
    assert "lime" in explainers_of([])
