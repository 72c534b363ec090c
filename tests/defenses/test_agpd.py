"""AGPD: rows whose gradients point elsewhere than those of clean samples of their label."""

from __future__ import annotations

import pytest
import torch
from poisoned_digits import Suspect
from torch import nn

from sidedoor.algorithms.anomaly_index import anomaly_index
from sidedoor.data.base import ArrayDataset, Subset
from sidedoor.defenses.filters.agpd import AGPD, gradients, turned
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable


def test_the_class_of_which_some_rows_turn_away_stands_out_and_those_rows_turn_most() -> None:
    rng = torch.Generator().manual_seed(0)
    labels, clean_labels = torch.arange(10).repeat_interleave(50), torch.arange(10).repeat_interleave(8)
    means = torch.randn(10, 16, generator=rng)
    means = means / means.norm(dim=1, keepdim=True)
    rows = 4 * means[labels] + 0.3 * torch.randn(500, 16, generator=rng)
    clean = 4 * means[clean_labels] + 0.3 * torch.randn(80, 16, generator=rng)
    quiet = anomaly_index(-turned(rows, labels, clean, clean_labels).dispersion)
    rows[150:170] = -rows[150:170]
    found = turned(rows, labels, clean, clean_labels)
    index = anomaly_index(-found.dispersion)
    assert index.argmax() == 3
    assert index[3] > torch.e**2 > quiet.max()
    assert found.turn[150:170].min() > torch.cat([found.turn[:150], found.turn[170:]]).max()
    assert 0.5 < found.turn[:150].median() < 2  # clean rows turn like clean samples


def test_directions_count_and_lengths_do_not() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(5).repeat_interleave(10)
    rows, clean = torch.randn(50, 8, generator=rng), torch.randn(50, 8, generator=rng)
    scaled = rows * torch.rand(50, 1, generator=rng).clamp(min=0.1)
    for a, b in zip(turned(scaled, labels, clean, labels), turned(rows, labels, clean, labels), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_constant_of_the_label_is_no_evidence() -> None:
    labels = torch.arange(5).repeat_interleave(10)
    rows = torch.eye(5)[labels] + 1e-7 * torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    found = turned(rows, labels, torch.eye(5), torch.arange(5))
    assert found.turn.abs().max() < 1e-3
    assert found.dispersion.max() < 1e-3


def test_gradients_are_those_of_the_labelled_logit_averaged_over_space() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    images = torch.randint(0, 256, (4, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ArrayDataset(images, [0, 1, 2, 1], 3)
    (found,) = gradients(model.eval(), ["1"], data, Run.local(device="cpu"))
    torch.testing.assert_close(found, model[4].weight.detach()[data.targets] / 16)


def test_poisoned_digits_score_highest(suspect: Suspect) -> None:
    score = AGPD().score(suspect.train, suspect.clean, suspect.task, suspect.build, suspect.run)
    assert suspect.auroc(score) > 0.9


def test_a_class_without_clean_samples_is_named(suspect: Suspect) -> None:
    some = Subset(suspect.clean, torch.nonzero(suspect.clean.targets != 4)[:, 0])
    with pytest.raises(NotApplicable, match="no clean sample of class 4"):
        AGPD().score(suspect.train, some, suspect.task, suspect.build, suspect.run)
