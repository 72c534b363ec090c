"""DBD: the head learns a bounded loss on fixed features, and MixMatch trusts few rows whose label does not fit them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from sidedoor.algorithms import splits
from sidedoor.defenses.training import dbd
from sidedoor.defenses.training.dbd import DBD
from sidedoor.models.small_cnn import small_cnn
from sidedoor.tasks.classification import Classification
from sidedoor.testing.ground import CLASSES, ground, sealed


def build() -> nn.Module:
    return small_cnn(CLASSES, (3, 16, 16), 8)


def test_the_head_descends_the_symmetric_cross_entropy() -> None:
    here = ground(3)
    model, batch = here.run.build(build).eval(), here.train.fetch(torch.arange(20))
    torch.testing.assert_close(dbd.loss(model, batch), splits.symmetric_cross_entropy(model(batch.x), batch.y).mean())


def test_poison_is_rarer_among_trusted_rows_than_among_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where features show what an image is rather than the trigger: here those of a network of clean data."""
    here = ground(3)
    poisoned = here.poisoned()
    train, truth = sealed(poisoned), poisoned.is_poisoned()
    flags = []

    def lowest(scores: torch.Tensor, share: float) -> torch.Tensor:
        flags.append(splits.lowest(scores, share))
        return flags[-1]

    class Clean:
        """In place of contrastive learning."""

        def __init__(self, *_: object) -> None: ...

        def fit(self, model: nn.Module, *_: object) -> nn.Module:
            model.load_state_dict(here.clean_model().state_dict())
            return model

    monkeypatch.setattr(dbd, "lowest", lowest)
    monkeypatch.setattr(dbd, "Pretraining", Clean)
    run = replace(here.run, history={})
    DBD(head_epochs=4, rounds=2, steps=4, batch=50).train(train, Classification(CLASSES), here.build, run)
    assert truth.mean() > 0.1  # the premise
    assert [int(own.sum()) for own in flags] == [100, 100]
    assert all(truth[own].mean() < truth.mean() / 2 for own in flags)
    assert list(run.history) == ["head", "semi-supervised"]
