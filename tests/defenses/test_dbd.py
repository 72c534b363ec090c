"""DBD: the head alone is trained on fixed features, and MixMatch trusts few rows whose label does not fit them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from sidedoor.algorithms import splits
from sidedoor.defenses.training import dbd
from sidedoor.defenses.training.dbd import DBD, HeadAlone
from sidedoor.engine import Recipe, Run
from sidedoor.models.base import head_names
from sidedoor.models.small_cnn import small_cnn
from sidedoor.tasks.classification import Classification
from sidedoor.testing.ground import CLASSES, ground, sealed


def build() -> nn.Module:
    return small_cnn(CLASSES, (3, 16, 16), 8)


def test_all_but_the_head_is_bit_for_bit_as_before_while_the_head_is_trained() -> None:
    here, run = ground(3), Run.local(Recipe(), device="cpu")
    train = sealed(here.poisoned())
    model = run.build(build)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tuned = DBD(head_epochs=3)._with_head(model, train, run)
    changed = {name for name, value in tuned.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == head_names(model, model)
    assert all(parameter.requires_grad for parameter in tuned.parameters())
    losses = [epoch["loss"] for epoch in run.history["head"]]
    assert losses[-1] < losses[0]


def test_the_head_descends_the_symmetric_cross_entropy() -> None:
    here = ground(3)
    model, batch = here.run.build(build).train(), here.train.fetch(torch.arange(20))
    loss = HeadAlone().losses(model, batch)
    expected = splits.symmetric_cross_entropy(model.eval()(batch.x), batch.y).mean()
    torch.testing.assert_close(loss[0], expected)


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
