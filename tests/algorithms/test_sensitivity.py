"""Sensitivity: centres move apart, rows fall into three parts, and the change is measured on each row by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.sensitivity import CentresApart, Sensitivity, parts, signed_loss
from sidedoor.data.base import Subset
from sidedoor.engine import Recipe
from sidedoor.models.base import penultimate
from sidedoor.models.small_cnn import small_cnn
from sidedoor.testing.ground import CLASSES, ground
from sidedoor.types import Batch

HERE = ground(1)


def build() -> nn.Module:
    return small_cnn(CLASSES, (1, 16, 16), 8)


class Pixels(nn.Module):
    """Features are the pixels."""

    def __init__(self, size: int, classes: int = 2):
        super().__init__()
        self.head = nn.Linear(size, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


def batch_of(features: Tensor, y: Tensor) -> Batch:
    return Batch(features[:, None, None], y, torch.arange(len(y)))


def test_the_loss_is_the_mean_cosine_of_the_centres_that_are_there() -> None:
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    found = CentresApart().losses(Pixels(2), batch_of(features, torch.tensor([0, 0, 3, 4])))
    half = 0.5**0.5
    torch.testing.assert_close(found, torch.tensor([(0 + half + half) / 3]))
    alone = CentresApart().losses(Pixels(2), batch_of(features, torch.zeros(4, dtype=torch.int64)))
    assert alone.tolist() == [0.0]


def test_centres_move_apart() -> None:
    run = replace(HERE.run, history={}, recipe=Recipe(epochs=6, batch=50, lr=0.01))
    run.fit(run.build(build), HERE.train, CentresApart(), name="apart")
    losses = [epoch["loss"] for epoch in run.history["apart"]]
    assert losses[0] > 0.5  # the premise
    assert losses[-1] < losses[0] - 0.2


@pytest.mark.parametrize(("scale", "stops"), [(0.1, False), (0.01, True)])
def test_it_stops_where_features_have_collapsed(scale: float, stops: bool) -> None:
    objective, model = CentresApart(), Pixels(2)
    features, y = torch.randn(20, 2), torch.arange(20) % 2
    objective.losses(model, batch_of(features, y))
    assert not objective.end_epoch(model, 0)
    objective.losses(model, batch_of(scale * features, y))
    assert objective.end_epoch(model, 1) is stops


def test_rows_fall_into_three_parts() -> None:
    torch.manual_seed(0)
    y = torch.arange(100) % 2
    change = torch.rand(100) + 0.5 * y  # the second class changes more
    clean, poisoned = parts(change, y, 0.2, 0.05)
    assert (int(clean.sum()), int(poisoned.sum()), int((clean & poisoned).sum())) == (20, 5, 0)
    for label in (0, 1):
        own = change[y == label]
        assert torch.equal(own[clean[y == label]].sort().values, own.sort().values[:10])
    assert torch.equal(change[poisoned].sort().values, change.sort().values[-5:])
    clean, poisoned = parts(change, y, 0.9, 0.5)
    assert int((clean & poisoned).sum()) == 0


def test_the_change_is_that_of_the_features_and_no_neighbour_matters() -> None:
    how = Sensitivity(1, 1, 0.01, 180.0, 3)
    model = HERE.run.build(build).eval()
    found = how.change(model, HERE.train, HERE.run)
    batch = HERE.train.fetch(torch.arange(5))
    with torch.no_grad():
        before = penultimate(model, batch.x)[1]
        seen = [how.transformed(batch, HERE.run, draw) for draw in range(3)]
        expected = sum(functional.mse_loss(penultimate(model, x)[1], before, reduction="none").mean(1) for x in seen)
    torch.testing.assert_close(found[:5], expected / 3)
    assert not torch.allclose(seen[0], seen[1])
    part = Subset(HERE.train, torch.tensor([3, 17]))
    torch.testing.assert_close(how.change(model, part, HERE.run), found[[3, 17]])


def test_a_transformation_moves_by_a_fifth_and_turns_by_no_more_than_it_should() -> None:
    x = torch.zeros(300, 1, 20, 20)
    x[:, :, 9:11, 9:11] = 1
    batch = Batch(x, torch.zeros(300, dtype=torch.int64), torch.arange(300))
    seen = Sensitivity(1, 1, 0.01, 0.0, 1).transformed(batch, HERE.run, 0)
    column = (seen.sum((1, 2)) * torch.arange(20.0)).sum(1) / seen.sum((1, 2, 3))
    assert 3.5 < (column - 9.5).abs().max() <= 4.01
    still = Sensitivity(1, 1, 0.01, 180.0, 1).transformed(batch, HERE.run, 0)
    assert not torch.allclose(still, seen)


def test_rows_to_be_unlearned_count_with_the_other_sign() -> None:
    data, unlearned = Subset(HERE.train, torch.tensor([4, 9, 2])), torch.tensor([False, True, False])
    model = HERE.run.build(build).eval()
    batch = data.fetch(torch.tensor([1, 2, 0]))
    own = HERE.task.loss(model, batch)
    expected = (own[1] + own[2] - 0.25 * own[0]) / 3
    torch.testing.assert_close(signed_loss(HERE.task, data, unlearned, 0.25)(model, batch), expected)
