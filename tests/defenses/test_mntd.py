"""MNTD: models are told apart by their answers alone; higher is more suspicious."""

from __future__ import annotations

import pytest
import torch
from shadow_toys import BLANK, RUN, TASK, leaning, pool
from torch import nn

from sidedoor.defenses.audits import mntd
from sidedoor.defenses.audits.mntd import MNTD
from sidedoor.evidence import Finding
from sidedoor.metrics.statistics import auroc


def found(model: nn.Module) -> Finding:
    return MNTD(queries=3, width=8, steps=25, lr=0.05).inspect(model, BLANK, TASK, RUN)


def test_models_whose_bias_differs_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mntd, "shadow_pool", lambda *_: pool(16))
    scores = [[found(model).score for model in leaning(3, seed=1, bias=bias)] for bias in (2.0, 0.0)]
    assert auroc(*(torch.tensor(part).numpy() for part in scores)) == 1.0


def test_it_flags_what_looks_backdoored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mntd, "shadow_pool", lambda *_: pool(16))
    dirty, clean = (found(leaning(1, seed=2, bias=bias)[0]) for bias in (2.0, 0.0))
    assert dirty.paper is not None
    assert clean.paper is not None
    assert dirty.paper.flagged
    assert not clean.paper.flagged
    assert dirty.queries == 3
