from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch
from torch import nn

from sidedoor.algorithms.inversion import mask_pattern
from sidedoor.algorithms.inversion.mask_pattern import Standing
from sidedoor.data.base import ArrayDataset, Dataset
from sidedoor.defenses.audits.k_arm import KArm, first_classes
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.tasks.classification import Classification

CLASSES, SHORTCUT = 8, 5
TASK, RUN = Classification(CLASSES), Run.local(device="cpu")
SMALL = KArm(rounds=400, samples=32, batch=8, patience=2)


class Rows(nn.Module):
    """The class of the brightest row of an image; with a shortcut, one class wherever the corner is bright."""

    def __init__(self, shortcut: bool):
        super().__init__()
        self.gain = 40.0 if shortcut else 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        corner = nn.functional.one_hot(torch.tensor(SHORTCUT), CLASSES) * (x[:, 0, :1, 0] - 0.3).clamp(min=0)
        return 20 * x.mean((1, 3)) + self.gain * corner


def bright_rows() -> Dataset:
    images = torch.randint(0, 60, (48, 1, CLASSES, CLASSES), generator=torch.Generator().manual_seed(0),
                           dtype=torch.uint8)
    labels = torch.arange(48) % CLASSES
    images[torch.arange(48), 0, labels] += 120
    return ArrayDataset(images, labels, CLASSES)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How many epochs each class had, over all searches."""
    counted: Counter[int] = Counter()
    train = mask_pattern._Search.train_epoch

    def train_epoch(search: mask_pattern._Search, rows: list[int]) -> None:
        counted.update(search.labels[rows].tolist())
        train(search, rows)

    monkeypatch.setattr(mask_pattern._Search, "train_epoch", train_epoch)
    return counted


def test_the_target_gets_most_rounds_within_the_budget_and_far_fewer_than_all_classes(turns: Counter[int]) -> None:
    found, epochs = SMALL.inspect(Rows(True), bright_rows(), TASK, RUN), turns.copy()
    assert found.suspected == (SHORTCUT,)
    assert found.score == max(found.per_class) == found.per_class[SHORTCUT] > 1 / SMALL.bound
    assert epochs.most_common(1)[0][0] == SHORTCUT
    assert len(epochs) == CLASSES
    assert sum(epochs.values()) <= SMALL.rounds
    turns.clear()
    mask_pattern.Inversion((mask_pattern.mask_norm,), SMALL._schedule(), 200, SMALL.samples, SMALL.batch, SMALL.lr) \
        .recover(Rows(True), bright_rows(), range(CLASSES), RUN)
    assert 2 * sum(epochs.values()) < sum(turns.values()), "of what it takes to finish every class"


def test_a_model_without_the_shortcut_is_not_suspected(turns: Counter[int]) -> None:
    found = SMALL.inspect(Rows(False), bright_rows(), TASK, RUN)
    assert not found.suspected
    assert found.score < 1 / SMALL.bound


@pytest.mark.parametrize("rounds", [1, 20, 90])
def test_rounds_are_never_exceeded(turns: Counter[int], rounds: int) -> None:
    brief = dataclasses.replace(SMALL, rounds=rounds, success=0.0)
    brief.inspect(Rows(True), bright_rows(), TASK, RUN)
    assert sum(turns.values()) == rounds


def standing(**columns: list[float] | list[int] | list[bool]) -> Standing:
    usual = Standing(torch.tensor([9, 9, 9]), torch.tensor([8.0, 10.0, 40.0]), torch.tensor([1.0, 4.0, 1.0]),
                     torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool))
    return dataclasses.replace(usual, **{name: torch.tensor(column) for name, column in columns.items()})


def test_the_next_epoch_is_for_the_class_that_is_small_and_shrinks() -> None:
    def turn(explore: float, seed: int = 0, **columns: list[float] | list[int] | list[bool]) -> list[int]:
        rng = torch.Generator().manual_seed(seed)
        return dataclasses.replace(SMALL, explore=explore, warm_up=30)._turns(standing(**columns), rng)

    assert turn(0.0) == [1], "as good as the smallest, and it shrinks faster"
    assert turn(0.0, speed=[1.0, 1.0, 1.0]) == [0]
    assert turn(0.0, best=[torch.inf] * 3, speed=[0.0] * 3) == [0]
    assert turn(0.0, done=[False, True, False]) == [0]
    assert turn(0.0, done=[True, False, False]) == [], "the smallest is finished"
    assert turn(0.0, settled=[True, False, False]) == [1, 2], "they warm up"
    assert turn(0.0, settled=[True, False, False], epochs=[9, 30, 9]) == [2]
    assert {turn(1.0, seed)[0] for seed in range(20)} == {0, 1, 2}
    assert {turn(1.0, seed, done=[False, True, False])[0] for seed in range(20)} == {0, 2}


def test_classes_that_are_nearly_never_among_the_first_are_left_out(turns: Counter[int]) -> None:
    class Biased(Rows):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + torch.tensor([0.0, 0, 0, 0, 100, 200, 0, 0])

    assert first_classes(Biased(False), bright_rows(), CLASSES, RUN)[:2] == [4, 5]
    found = dataclasses.replace(SMALL, arms=2, rounds=40).inspect(Biased(True), bright_rows(), TASK, RUN)
    assert set(turns) == {4, 5}
    assert [k for k, times in enumerate(found.per_class) if times > 1] == [5]


def test_schedules_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected .*above 1"):
        KArm(raising=1.0)
