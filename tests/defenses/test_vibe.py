"""VIBE: poisoned rows lose their label, and the head predicts ln p(l|x)."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.data.base import ArrayDataset, Dataset
from sidedoor.defenses.training.vibe import VIBE, Variational, delivered
from sidedoor.engine import Recipe, Run
from sidedoor.errors import NotApplicable
from sidedoor.models.base import head, penultimate
from sidedoor.models.small_cnn import small_cnn
from sidedoor.tasks.classification import Classification
from sidedoor.testing.ground import CLASSES, ground, sealed

QUICK = VIBE(steps=60, renewal=20, batch=64, lr=0.05)
RUN = Run.local(Recipe(), device="cpu")


def build() -> nn.Module:
    return small_cnn(CLASSES, (1, 16, 16), 8)


def clustered() -> tuple[Tensor, Tensor, Tensor]:
    """Features of 400 rows in four clusters, their clean classes, and labels of which a tenth is 0 instead."""
    torch.manual_seed(0)
    clean = torch.arange(400) % CLASSES
    features = torch.eye(32)[clean] + 0.15 * torch.randn(400, 32) + 0.3
    y = clean.clone()
    y[torch.arange(400) % 9 == 1] = 0
    return features, clean, y


@functools.cache
def fitted() -> tuple[Variational, nn.Module]:
    features, _, y = clustered()
    data = rows(y)
    objective, model = Variational(features, data, QUICK), RUN.build(build)
    QUICK._fit(objective, model, data, RUN)
    return objective, model


def rows(y: Tensor) -> Dataset:
    return ArrayDataset(torch.zeros(len(y), 1, 16, 16, dtype=torch.uint8), y, CLASSES)


def test_poisoned_rows_get_the_class_that_they_show_and_clean_ones_keep_theirs() -> None:
    _, clean, y = clustered()
    poisoned = clean != y
    assert 30 < poisoned.sum() < 40  # the premise
    objective, model = fitted()
    assert (objective.inferred[poisoned] == clean[poisoned]).float().mean() > 0.95
    assert (objective.inferred[~poisoned] == y[~poisoned]).float().mean() > 0.97
    assert [p for p in model.parameters() if not p.requires_grad] == []
    before = RUN.build(build).state_dict()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"body.13.weight"}  # the head, and no running statistics


def test_labels_that_show_nothing_are_not_followed() -> None:
    """p(y|l) learns that label 0 is given to rows of all classes."""
    objective, model = fitted()
    prototypes = head(model).weight.flatten(1).detach()
    p = objective.of_label(prototypes).exp()
    torch.testing.assert_close(p.sum(0), torch.ones(CLASSES))
    assert p.argmax(0).tolist() == list(range(CLASSES))
    assert (p[0, 1:] > 0.01).all()


def test_the_delivered_head_predicts_the_clean_class() -> None:
    here = ground(1)
    model = RUN.build(build).eval()
    x = here.train.fetch(torch.arange(50)).x
    with torch.no_grad():
        features = penultimate(model, x)[1]
    data = rows(torch.arange(50) % CLASSES)
    objective = Variational(features, data, QUICK)
    objective.prior.data = torch.tensor([4.0, 0.0, 0.0, -3.0])
    with torch.no_grad():
        expected = objective.of_image(functional.normalize(features, dim=1), head(model).weight)
        lengths = features.norm(dim=1)
        given = delivered(model, objective, lengths.mean())(x).log_softmax(1)
    near = (lengths / lengths.mean() - 1).abs() < 0.01
    assert near.any()
    torch.testing.assert_close(given[near], expected[near], atol=0.05, rtol=0)
    torch.testing.assert_close(head(model).bias, objective.log_prior())


def test_a_class_without_a_row_starts_from_the_mean_of_all() -> None:
    v = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    objective = Variational(v, rows(torch.tensor([0, 2, 2])), QUICK)
    mean = functional.normalize(torch.tensor([1.0, 2.0]), dim=0)
    torch.testing.assert_close(objective.labels[1].detach(), mean)
    assert objective.labels[0].argmax() == 0
    assert objective.labels[2].argmax() == 1


def test_a_head_that_looks_at_more_than_a_pixel_is_refused_before_training() -> None:
    run = replace(RUN, history={})
    with pytest.raises(NotApplicable, match="looks at more than one pixel"):
        QUICK.train(sealed(ground(1).poisoned()), Classification(CLASSES), lambda: nn.Sequential(
            nn.Conv2d(1, CLASSES, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), run)
    assert run.history == {}
