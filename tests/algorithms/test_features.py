"""Features of a data set, and the model that filters look at it with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sidedoor import zoo
from sidedoor.algorithms.features.collect import collect
from sidedoor.algorithms.inspection import inspection_model
from sidedoor.core.checkpoint import Shelf
from sidedoor.data.base import ArrayDataset
from sidedoor.engine import Recipe, Run
from sidedoor.models.base import head
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised


@pytest.fixture
def data() -> ArrayDataset:
    return ArrayDataset(np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16), np.uint8), np.arange(40) % 4, 4)


def test_features_are_what_the_last_layer_makes_logits_of(data: ArrayDataset) -> None:
    run = Run.local(device="cpu")
    model = run.build(zoo.network({"name": "small_cnn", "width": 4}, data)).eval()
    found = collect(model, data, run)
    layer: Any = head(model)
    assert torch.allclose(layer(found.features), found.logits, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(model(data.fetch(torch.arange(40)).x), found.logits, atol=1e-5)
    assert torch.equal(found.labels, data.targets)


def test_the_inspection_model_is_the_victims_and_is_kept_for_the_same_data(
        data: ArrayDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build, task = zoo.network({"name": "small_cnn", "width": 4}, data), Classification(4)
    run = Run.local(Recipe(epochs=1, batch=20), device="cpu")
    victim = run.fit(run.build(build), data, Supervised(task), name="victim").state_dict()
    trained = []
    fit = Run.fit

    def counted(self: Run, *given: Any, **named: Any) -> nn.Module:
        trained.append(named["name"])
        return fit(self, *given, **named)

    monkeypatch.setattr(Run, "fit", counted)
    shelved = replace(run, shelf=Shelf(tmp_path, "one-"))
    for each in (run, shelved, shelved):
        found = inspection_model(data, task, build, each).state_dict()
        assert all(torch.equal(found[name], victim[name]) for name in victim)
    assert len(trained) == 2  # without a shelf, and once with one
    other = ArrayDataset(255 - data.images, data.targets, 4)
    inspection_model(other, task, build, shelved)
    inspection_model(data, task, build, replace(run, shelf=Shelf(tmp_path, "two-")))
    inspection_model(data, task, build, shelved.within("1-second"))
    assert len(trained) == 5
