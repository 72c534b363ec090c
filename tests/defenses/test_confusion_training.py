"""Confusion training: a confused model knows nothing of clean images and still fits the trigger."""

from __future__ import annotations

import copy

import pytest
import torch
from poisoned_digits import Suspect
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.inspection import inspection_model
from sidedoor.algorithms.short_training import for_steps
from sidedoor.algorithms.splits import row_losses
from sidedoor.data.base import ArrayDataset, Dataset
from sidedoor.defenses.filters.confusion_training import Confusion, ConfusionTraining, lowest
from sidedoor.errors import ConfigError, NotApplicable
from sidedoor.tasks.classification import Classification
from sidedoor.types import Batch


def test_a_confused_model_is_wrong_about_clean_images_and_still_fits_the_trigger(suspect: Suspect) -> None:
    model = copy.deepcopy(inspection_model(suspect.train, suspect.task, suspect.build, suspect.run))
    accuracy, _ = right(model, suspect)
    assert accuracy > 0.9  # the premise
    recipe = for_steps(suspect.run, suspect.train, 100, 64, lr=0.01, momentum=0.7, schedule="constant")
    suspect.run.fit(model, suspect.train, Confusion(suspect.task, suspect.clean, 39.0), name="confusion", recipe=recipe)
    accuracy, fitted = right(model, suspect)
    assert accuracy < 0.2
    assert fitted > 0.8
    assert suspect.auroc(-row_losses(model, suspect.train, suspect.task, suspect.run)) > 0.95


def right(model: nn.Module, suspect: Suspect) -> tuple[float, float]:
    """Accuracy on clean samples, and the share of the poisoned rows that have their label."""
    def rows(data: Dataset) -> Tensor:
        return suspect.run.per_sample(model, data, lambda batch: {
            "right": (model(batch.x).argmax(1) == batch.y).float()})["right"]

    return rows(suspect.clean).mean().item(), rows(suspect.train)[suspect.truth == 1].mean().item()


class _Remembers(Classification):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        seen.append(batch)
        return functional.cross_entropy(model(batch.x), batch.y, reduction="none")


seen: list[Batch] = []


def test_labels_of_clean_samples_are_never_right_and_all_wrong_ones_occur() -> None:
    images = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    clean = ArrayDataset(images, torch.arange(40) % 4, 4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    batch = clean.fetch(torch.arange(20))
    seen.clear()
    torch.manual_seed(0)
    loss = Confusion(_Remembers(4), clean, 3.0).losses(model, batch)
    (both,) = seen
    truth = (both.x[:20, 0, 0, 0] * 255).round().long() % 4
    offset = (both.y[:20] - truth) % 4
    assert set(offset.tolist()) == {1, 2, 3}
    assert torch.equal(both.y[20:], batch.y)
    each = functional.cross_entropy(model(both.x), both.y, reduction="none")
    torch.testing.assert_close(loss[0], (3 * each[:20].mean() + each[20:].mean()) / 4)


def test_the_lowest_rows_are_kept_and_some_of_every_class() -> None:
    labels = torch.arange(4).repeat_interleave(100)
    loss = torch.arange(400).flip(0).float()  # the last class has the lowest
    chosen = lowest(loss, labels, 0.1)
    assert chosen.tolist() == [99, 199, 299, *range(360, 400)]


def test_poisoned_digits_score_highest(suspect: Suspect) -> None:
    score = ConfusionTraining(kept=(0.2,), pretraining=40, steps=50).score(
        suspect.train, suspect.clean, suspect.task, suspect.build, suspect.run)
    assert suspect.auroc(score) > 0.95


def test_no_round_and_no_wrong_label_are_refused(suspect: Suspect) -> None:
    with pytest.raises(ConfigError, match="kept"):
        ConfusionTraining(kept=())
    one = ArrayDataset(torch.zeros(4, 1, 16, 16, dtype=torch.uint8), [0] * 4, 1)
    with pytest.raises(NotApplicable, match="wrong label"):
        ConfusionTraining().score(one, one, Classification(1), suspect.build, suspect.run)
