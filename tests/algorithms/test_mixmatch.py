"""MixMatch: labels of untrusted rows are never looked at, guesses are sharp, mixtures have hand-computed losses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sidedoor.algorithms.mixmatch import MixMatch, Rounds, guessed, mixed, semi_supervised
from sidedoor.data.base import ArrayDataset, Dataset
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.models.small_cnn import small_cnn
from sidedoor.testing.ground import CLASSES, equal_states, ground
from sidedoor.types import Batch

HERE = ground(1)
TRUSTED = torch.arange(len(HERE.train)) % 4 == 0
ROUNDS = Rounds(count=3, steps=8, batch=50, lr=0.01, weight=15.0)


def build() -> nn.Module:
    return small_cnn(CLASSES, (1, 16, 16), 8)


def with_labels(y: Tensor) -> Dataset:
    rows = HERE.train.rows(torch.arange(len(HERE.train)))
    return ArrayDataset(rows, y, CLASSES)


def trained(data: Dataset, run: Run) -> nn.Module:
    return ROUNDS.fit(run.build(build), data, lambda model, number: TRUSTED, run)


def test_labels_of_rows_that_are_not_trusted_change_nothing_and_others_do() -> None:
    y = HERE.train.targets
    wrong = (y + 1) % CLASSES
    usual = trained(with_labels(y), HERE.run)
    assert equal_states([usual, trained(with_labels(torch.where(TRUSTED, y, wrong)), HERE.run)])
    assert not equal_states([usual, trained(with_labels(torch.where(TRUSTED, wrong, y)), HERE.run)])


def test_the_split_is_renewed_at_the_start_of_every_round() -> None:
    asked: list[int] = []

    def renew(model: nn.Module, number: int) -> Tensor:
        asked.append(number)
        return TRUSTED

    run = replace(HERE.run, history={})
    ROUNDS.fit(run.build(build), HERE.train, renew, run)
    assert asked == [0, 1, 2]
    assert len(run.history["semi-supervised"]) == 3 * 2  # of four steps each


def test_a_split_without_a_trusted_row_is_refused() -> None:
    with pytest.raises(ConfigError, match="round 1 of MixMatch has no row"):
        ROUNDS.fit(HERE.run.build(build), HERE.train, lambda model, number: TRUSTED & False, HERE.run)


class Recording(nn.Module):
    """Logits in favour of a class for each brightness; keeps the images of each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return x.flatten(1)[:, :CLASSES]


@pytest.mark.parametrize(("count", "passes"), [(10, [2 * 6, 6 + 2 * 6]), (40, [2 * 30, 3 * 30]), (4, [4])])
def test_a_batch_has_as_many_trusted_rows_as_others(count: int, passes: list[int]) -> None:
    """The first four of the batch are trusted."""
    flags = torch.zeros(len(HERE.train), dtype=torch.bool)
    flags[:4] = True
    flags[40:50] = True
    objective = MixMatch(HERE.train, None, lambda model, number: flags, None, ROUNDS, 1)
    model = Recording()
    objective.start(model, HERE.run)
    rows = torch.cat([torch.arange(4), torch.arange(4, count) + (torch.arange(4, count) >= 40) * 10])
    batch = HERE.train.fetch(rows)
    torch.manual_seed(0)
    assert objective.losses(model, batch).isfinite().all()
    if count == 40:
        assert flags[rows].sum() == 4  # the premise
        passes = [2 * 36, 3 * 36]
    assert [len(x) for x in model.seen] == passes


def test_the_weight_of_others_grows_with_the_rounds() -> None:
    objective = MixMatch(HERE.train, None, lambda model, number: TRUSTED, None, ROUNDS, 2)
    model = Recording()
    objective.start(model, HERE.run)
    rows = torch.arange(40)
    batch = HERE.train.fetch(rows)
    found = []
    for epoch in (-1, 0, 2, 5):
        objective.end_epoch(model, epoch)
        torch.manual_seed(0)
        found.append(objective.losses(model, batch).item())
    steps = [value - found[0] for value in found[1:]]
    assert steps[0] > 0  # the premise: others have a loss
    assert [step / steps[0] for step in steps] == pytest.approx([1, 3, 6], rel=1e-3)


def test_the_loss_is_that_of_the_formula() -> None:
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]])
    target = torch.tensor([[0.25, 0.75], [0.0, 1.0], [0.9, 0.1]])
    p = logits.softmax(1)
    first = -(target[0] * p[0].log()).sum()
    second = (p[1:] - target[1:]).square().sum() / 4
    torch.testing.assert_close(semi_supervised(logits, target, 1, torch.tensor(3.0)), first + 3 * second)
    alone = -(target * p.log()).sum(1).mean()
    torch.testing.assert_close(semi_supervised(logits, target, 3, torch.tensor(3.0)), alone)


def test_guesses_are_sharpened_means_and_leave_running_statistics_alone() -> None:
    views = torch.tensor([[0.2, 1.0], [3.0, 0.0], [0.6, 0.1], [1.0, 0.5]])[:, None, None]
    p = views.flatten(1).softmax(1)
    mean = (p[:2] + p[2:]) / 2
    expected = mean.square() / mean.square().sum(1, keepdim=True)
    torch.testing.assert_close(guessed(nn.Flatten(), views), torch.cat([expected, expected]))
    assert (expected.max(1).values > mean.max(1).values).all()
    model = HERE.run.build(build).train()
    before = HERE.run.build(build).train()
    guessed(model, torch.rand(6, 1, 16, 16))
    assert equal_states([model, before])
    assert all(module.training for module in model.modules())


def test_a_mixture_keeps_at_least_half_of_each_row_and_its_target_likewise() -> None:
    x = torch.arange(6.0)[:, None, None, None].expand(-1, 1, 2, 2)
    target = torch.eye(6)
    torch.manual_seed(3)
    shares = []
    for _ in range(20):
        images, targets = mixed(x, target)
        torch.testing.assert_close(targets.sum(1), torch.ones(6))
        torch.testing.assert_close(images[:, 0, 0, 0], targets @ torch.arange(6.0), atol=1e-5, rtol=0)
        shares.append(targets.diagonal().min().item())
    assert 0.5 <= min(shares) < 0.7
    assert max(shares) > 0.95


def test_an_augmentation_makes_each_view_of_a_row_for_itself() -> None:
    calls: list[int] = []

    def augment(batch: Batch) -> Batch:
        calls.append(len(batch.x))
        return batch

    objective = MixMatch(HERE.train, None, lambda model, number: TRUSTED, augment, ROUNDS, 1)
    objective.start(Recording(), HERE.run)
    rows = torch.arange(8)
    objective.losses(Recording(), HERE.train.fetch(rows))
    assert calls == [6, 6, 6]


def test_seeds_are_trusted_where_no_row_is() -> None:
    nobody = torch.zeros(len(HERE.train), dtype=torch.bool)
    seeds = HERE.clean
    objective = MixMatch(HERE.train, seeds, lambda model, number: nobody, None, ROUNDS, 1)
    objective.start(Recording(), HERE.run)
    torch.manual_seed(0)
    found = objective._labelled(HERE.train.fetch(torch.arange(0)), 20)
    assert found.x.shape == (20, 1, 16, 16)
    known = seeds.fetch(torch.arange(len(seeds)))
    place = {int(index): row for row, index in enumerate(known.index)}
    rows = torch.tensor([place[int(index)] for index in found.index])
    assert torch.equal(found.x, known.x[rows])
    assert torch.equal(found.y, known.y[rows])
    assert len(rows.unique()) > 10
