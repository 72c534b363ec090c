"""Beatrix as a filter: rows beside clean images of their label."""

from __future__ import annotations

import pytest
import torch
from poisoned_digits import Suspect

from sidedoor.data.base import ArrayDataset, Subset
from sidedoor.defenses.filters.beatrix_filter import BeatrixFilter
from sidedoor.errors import ConfigError, NotApplicable
from sidedoor.metrics.statistics import auroc


def test_poisoned_digits_score_highest(suspect: Suspect) -> None:
    score = BeatrixFilter().score(suspect.train, suspect.clean, suspect.task, suspect.build, suspect.run)
    assert suspect.auroc(score) > 0.9
    assert score.min() >= 0


def test_the_class_that_counts_is_the_label(suspect: Suspect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clean rows that are called something else deviate, though the model still knows what they are."""
    from sidedoor.algorithms.inspection import inspection_model
    from sidedoor.defenses.filters import beatrix_filter

    model = inspection_model(suspect.train, suspect.task, suspect.build, suspect.run)
    monkeypatch.setattr(beatrix_filter, "inspection_model", lambda *_: model)
    images, labels = suspect.clean.rows(torch.arange(len(suspect.clean))), suspect.clean.targets
    renamed = torch.arange(len(labels)) % 5 == 0
    given = ArrayDataset(images, torch.where(renamed, (labels + 1) % 10, labels), 10)
    score = BeatrixFilter(bound=3.0).score(given, suspect.clean, suspect.task, suspect.build, suspect.run)
    found = auroc(score[renamed].numpy(), score[~renamed].numpy())
    assert found is not None
    assert found > 0.95


def test_a_class_without_clean_samples_a_missing_stage_and_no_orders_are_refused(suspect: Suspect) -> None:
    some = Subset(suspect.clean, torch.nonzero(suspect.clean.targets != 4)[:, 0])
    with pytest.raises(NotApplicable, match="no clean sample of class 4"):
        BeatrixFilter().score(suspect.train, some, suspect.task, suspect.build, suspect.run)
    with pytest.raises(NotApplicable, match="there is no stage -9"):
        BeatrixFilter(layer=-9).score(suspect.train, suspect.clean, suspect.task, suspect.build, suspect.run)
    with pytest.raises(ConfigError, match="expected at least one power"):
        BeatrixFilter(orders=())
