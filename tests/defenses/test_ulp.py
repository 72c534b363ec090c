"""ULP: litmus patterns separate models that were not tuned on; higher is more suspicious."""

from __future__ import annotations

import pytest
import torch
from shadow_toys import BLANK, RUN, TASK, leaning, pool

from sidedoor.defenses.audits import ulp
from sidedoor.defenses.audits.ulp import ULP
from sidedoor.errors import NotApplicable
from sidedoor.metrics.statistics import auroc
from sidedoor.types import MEASUREMENT

QUICK = ULP(patterns=3, steps=25, lr=0.1)


def test_leaning_models_score_above_others_and_are_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ulp, "shadow_pool", lambda *_: pool(16))
    dirty, clean = ([QUICK.inspect(model, BLANK, TASK, RUN) for model in leaning(3, seed=1, bias=bias)]
                    for bias in (2.0, 0.0))
    scores = (torch.tensor([found.score for found in part]).numpy() for part in (dirty, clean))
    assert auroc(*scores) == 1.0
    assert all(found.paper is not None and found.paper.flagged for found in dirty)
    assert sum(found.paper is not None and found.paper.flagged for found in clean) <= 1


def test_the_patterns_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ulp, "shadow_pool", lambda *_: pool(8))
    found = QUICK.inspect(leaning(1, seed=1, bias=2.0)[0], BLANK, TASK, RUN)
    assert [exhibit.name for exhibit in found.exhibits] == ["pattern_0", "pattern_1", "pattern_2"]
    first, second, _ = (exhibit.values for exhibit in found.exhibits)
    assert first.shape == (1, 4, 4)
    assert not torch.equal(first, second)


def test_images_without_bounds_are_refused() -> None:
    data = type(BLANK)(BLANK.images, BLANK.targets, 4)
    data.space = MEASUREMENT
    with pytest.raises(NotApplicable, match="bounded range"):
        QUICK.inspect(leaning(1, 0, 0.0)[0], data, TASK, RUN)
