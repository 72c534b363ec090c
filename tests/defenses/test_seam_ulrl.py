"""SEAM and ULRL, which forget before they learn."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from backdoored_digits import Scene
from torch import nn

from sidedoor.defenses.repair.seam import SEAM, _Wrong
from sidedoor.defenses.repair.ulrl import ULRL, _Away, outliers
from sidedoor.errors import NothingFound
from sidedoor.models.base import head
from sidedoor.tasks.task import Supervised
from sidedoor.types import Batch


def test_wrong_labels_are_wrong_spread_over_all_others_and_stay() -> None:
    y = torch.arange(4000) % 4
    batch = Batch(torch.zeros(4000, 1, 2, 2), y, torch.arange(4000))
    wrong = _Wrong(4, seed=0).labels(batch)
    assert (wrong != y).all()
    counts = torch.zeros(4, 4).index_put_((y, wrong), torch.ones(4000), accumulate=True)
    assert (counts[~torch.eye(4, dtype=torch.bool)] - 333).abs().max() < 70
    part = Batch(batch.x[7:9], y[7:9], batch.index[7:9])
    assert torch.equal(_Wrong(4, seed=0).labels(part), wrong[7:9])
    assert not torch.equal(_Wrong(4, seed=1).labels(batch), wrong)
    assert torch.equal(_Wrong(2, seed=0).labels(Batch(batch.x, y % 2, batch.index)), 1 - y % 2)


@pytest.mark.parametrize(("hits", "classes", "stops"), [(3, 10, True), (5, 10, False), (11, 2, True), (13, 2, False)])
def test_forgetting_ends_near_a_guess(hits: int, classes: int, stops: bool) -> None:
    objective = _Wrong(classes, seed=0)
    objective.hits += [(torch.arange(20) < hits).float()]
    assert objective.end_epoch(nn.Identity(), 0) is stops
    assert objective.hits == []


def test_seam_forgets_first_and_learns_again(scene: Scene) -> None:
    run = replace(scene.run, history={})
    repaired = SEAM(forget_steps=30, steps=60).repair(scene.model, scene.clean, scene.task, run)
    assert list(run.history) == ["forget", "recover"]
    assert run.history["recover"][0]["loss"] > 1.0  # it had forgotten
    assert run.history["recover"][-1]["loss"] < 0.5
    assert scene.numbers(repaired)[0] > 0.8


def test_rows_that_unlearning_changes_most_are_outliers() -> None:
    before = torch.zeros(10, 3)
    after = torch.linspace(0.9, 1.1, 10)[:, None].repeat(1, 3)
    after[6], after[2] = -4.0, 3.0  # whichever the sign
    assert outliers(before, after, 3.5) == [6, 2]
    after[0], after[1] = 9.0, 8.0
    assert outliers(before, after, 3.5) == [0, 1]
    with pytest.raises(NothingFound, match="no row of the head stands out"):
        outliers(before, torch.linspace(0.9, 1.1, 10)[:, None].repeat(1, 3), 3.5)


def test_outlying_rows_alone_are_pushed_away(scene: Scene) -> None:
    model, batch = copy.deepcopy(scene.model), scene.clean.fetch(torch.arange(20))
    weight = head(model).weight
    before = weight.detach().clone()
    plain = Supervised(scene.task).losses(model, batch)
    away = _Away(scene.task, before, [3, 5], 0.7).losses(model, batch)
    torch.testing.assert_close(away - plain, torch.tensor([0.7]))  # both rows are where they were
    with torch.no_grad():
        weight[3].neg_()
        weight[0].neg_()
    plain, away = (objective.losses(model, batch) for objective in (Supervised(scene.task),
                                                                    _Away(scene.task, before, [3, 5], 0.7)))
    torch.testing.assert_close(away - plain, torch.tensor([0.0]), atol=1e-5, rtol=0)
    repaired = ULRL(unlearn_steps=8, threshold=0.0, steps=20).repair(scene.model, scene.clean, scene.task, scene.run)
    assert scene.numbers(repaired)[0] > 0.8
    moved = nn.functional.cosine_similarity(head(repaired).weight, head(scene.model).weight).detach()
    assert (moved < 0.5).sum() == 2
