"""ABL isolation: rows that are learned first are suspected, by their losses of the first epochs alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from poisoned_digits import Suspect
from torch import Tensor, nn

from sidedoor.data.base import ArrayDataset, Subset
from sidedoor.defenses.filters.abl_isolation import ABLIsolation, LossTrajectory
from sidedoor.engine import Recipe, Run
from sidedoor.errors import ConfigError
from sidedoor.metrics.statistics import auroc
from sidedoor.tasks.classification import Classification


def build() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))


def mixed() -> tuple[ArrayDataset, Tensor]:
    """Noise with random labels, of which a tenth has label 0 and a white square."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 120, (400, 1, 8, 8), dtype=torch.uint8, generator=rng)
    labels = torch.randint(0, 4, (400,), generator=rng)
    easy = torch.arange(400) < 40
    images[easy, :, :3, :3], labels[easy] = 255, 0
    return ArrayDataset(images, labels, 4), easy


def test_rows_with_an_easy_feature_score_highest() -> None:
    data, easy = mixed()
    run = Run.local(Recipe(epochs=6, batch=40, schedule="constant"), device="cpu")
    score = ABLIsolation().score(data, Classification(4), build, run)
    found = auroc(score[easy].numpy(), score[~easy].numpy())
    assert found is not None
    assert found > 0.9
    assert len(run.history["isolation"]) == 2


def test_the_score_is_minus_the_mean_loss_of_each_row_over_the_epochs_that_count() -> None:
    """Without a step that changes anything, the loss of the untrained model."""
    data, _ = mixed()
    run = Run.local(Recipe(epochs=9, batch=40, lr=1e-9, weight_decay=0.0), device="cpu")
    score = ABLIsolation().score(data, Classification(4), build, run)
    model = run.build(build)
    batch = data.fetch(torch.arange(400))
    torch.testing.assert_close(score, -Classification(4).loss(model, batch).detach(), rtol=1e-3, atol=1e-4)


def test_rows_of_a_part_are_told_by_their_place_in_it() -> None:
    data, easy = mixed()
    order = torch.arange(399, 10, -1)
    run = Run.local(Recipe(epochs=3, batch=40), device="cpu")
    score = ABLIsolation().score(Subset(data, order), Classification(4), build, run)
    assert score.shape == order.shape
    assert score[easy[order]].mean() > score[~easy[order]].mean()


def test_a_row_that_no_batch_held_is_not_suspected() -> None:
    data, _ = mixed()
    run = Run.local(Recipe(epochs=1, batch=57), device="cpu")  # 7 batches and a single row
    score = ABLIsolation().score(data, Classification(4), build, run)
    left = (score == score.median()).nonzero()[:, 0]
    assert score.isfinite().all()
    assert 1 <= len(left) <= 2


def test_it_stops_after_its_epochs_and_counts_every_row_once_an_epoch() -> None:
    data, _ = mixed()
    objective = LossTrajectory(Classification(4), data, 2)
    run = Run.local(Recipe(epochs=5, batch=50), device="cpu")
    run.fit(run.build(build), data, objective, name="isolation")
    assert objective.count.tolist() == [2.0] * 400
    assert not objective.fresh.any()


def test_poisoned_digits_are_learned_first(suspect: Suspect) -> None:
    run = replace(suspect.run, recipe=Recipe(epochs=6))
    assert suspect.auroc(ABLIsolation().score(suspect.train, suspect.task, suspect.build, run)) > 0.7


def test_a_task_without_losses_of_samples_is_refused() -> None:
    @dataclass(frozen=True)
    class Joint(Classification):
        per_sample: ClassVar[bool] = False

    data, _ = mixed()
    with pytest.raises(ConfigError, match="Joint has a loss of batches only"):
        ABLIsolation().score(data, Joint(4), build, Run.local(device="cpu"))
