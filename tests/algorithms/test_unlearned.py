"""Gradient ascent until a model guesses."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from sidedoor.algorithms.unlearned import unlearned
from sidedoor.core.logs import warn_once
from sidedoor.engine import Recipe
from sidedoor.testing.ground import ground

RECIPE = Recipe(lr=0.01, weight_decay=0.0, schedule="constant", epochs=30, batch=16)


def test_accuracy_falls_to_the_level_and_no_further_epochs_are_trained() -> None:
    here = ground()
    model = here.victim()
    before = copy.deepcopy(model.state_dict())
    accuracy = here.task.score(model, here.clean, None, here.run).means()["clean"]
    assert accuracy is not None
    assert accuracy > 0.9  # the premise
    run = replace(here.run, history={})
    ascended = unlearned(model, here.clean, run, RECIPE, 0.4, "unlearn")
    found = here.task.score(ascended, here.clean, None, here.run).means()["clean"]
    assert found is not None
    assert found < 0.5
    losses = [entry["loss"] for entry in run.history["unlearn"]]
    assert len(losses) < RECIPE.epochs
    assert losses[-1] < losses[0] < 0  # minus the cross-entropy
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_level_that_is_not_reached_is_named(caplog: pytest.LogCaptureFixture) -> None:
    warn_once.cache_clear()
    here = ground()
    unlearned(here.victim(), here.clean, here.run, replace(RECIPE, epochs=1, lr=1e-9), 0.4, "unlearn")
    assert "unlearning ended after 1 epochs above the accuracy of 40%" in caplog.text
