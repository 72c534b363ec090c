from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.audits.umd import UMD, Pairs, agglomerated, mutual
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.tasks.classification import Classification

TASK = Classification(5)
RUN = Run.local(device="cpu")
AUDIT = UMD(eps=0.05, steps=10, batch=4)


class Stripes(nn.Module):
    """Sees the class of the brightest row of five; a bright last column leads from some classes to others."""

    def __init__(self, leads: dict[int, int] | None = None):
        super().__init__()
        self.leads = leads or {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x[:, 0, :, :4].mean(2)
        logits = 20 * rows
        seen = functional.one_hot(rows.argmax(1), 5).float()
        for source, target in self.leads.items():
            into = torch.zeros_like(logits)
            into[:, target] = 1
            logits = logits + 500 * seen[:, source, None] * (x[:, 0, :, 4].mean(1, keepdim=True) - 0.49).relu() * into
        return logits


def striped() -> ArrayDataset:
    labels = torch.arange(60) % 5
    pixels = torch.randint(60, 70, (60, 1, 5, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pixels[torch.arange(60), 0, labels, :4] = 160
    pixels[..., 4] = 127
    return ArrayDataset(pixels, labels, 5)


def test_the_pairs_of_one_trigger_are_chosen() -> None:
    found = AUDIT.inspect(Stripes({0: 1, 2: 3}), striped(), TASK, RUN)
    assert set(found.suspected) == {1, 3}
    assert found.score == pytest.approx((1 - 2 / 40) / 4, abs=0.03), "one of four other sources, beyond any two"
    assert min(found.per_class[1], found.per_class[3]) >= 0.95
    assert max(found.per_class[k] for k in (0, 2, 4)) < 0.6


def test_more_pairs_score_higher_and_a_clean_model_0() -> None:
    scores = [AUDIT.inspect(Stripes(leads), striped(), TASK, RUN).score
              for leads in ({}, {0: 1, 2: 3}, {0: 1, 1: 2, 2: 3, 3: 4, 4: 0}, {0: 2, 1: 2, 3: 2, 4: 2})]
    assert scores[0] == 0 < scores[1] < scores[3] < scores[2]
    assert AUDIT.inspect(Stripes(), striped(), TASK, RUN).suspected == ()


def test_transfer_is_the_mean_of_both_ways() -> None:
    pairs = Pairs(torch.tensor([0, 1]), torch.tensor([2, 0]))
    source = torch.tensor([0, 0, 1, 1])
    answers = torch.tensor([[2, 1, 0, 0], [2, 2, 0, 1]])
    assert mutual(answers, source, pairs, 3).tolist() == [[0.5, 1.0], [1.0, 0.5]]
    answers[1, :2] = 1
    assert mutual(answers, source, pairs, 3).tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_a_source_has_one_target() -> None:
    source = torch.tensor([0, 0, 1, 1, 2])
    transfer = torch.tensor([[1.0, 1.0, 0.9, 0.0, 0.8], [1.0, 1.0, 0.9, 0.0, 0.0], [0.9, 0.9, 1.0, 1.0, 0.8],
                             [0.0, 0.0, 1.0, 1.0, 0.0], [0.8, 0.0, 0.8, 0.0, 1.0]])
    members, score = agglomerated(transfer, source)
    assert members.tolist() == [True, False, True, False, True]
    apart = transfer[source[:, None] != source].mean().item()
    assert score == pytest.approx(2 * (0.9 + 0.8 + 0.8 - 3 * apart) / 3 / 2)


def test_too_many_classes_and_a_model_of_one_class_are_refused() -> None:
    with pytest.raises(NotApplicable, match="5 classes given"):
        UMD(most=4).inspect(Stripes(), striped(), TASK, RUN)
    with pytest.raises(NotApplicable, match="at least two such classes"):
        AUDIT.inspect(nn.Sequential(Stripes(), _Constant()), striped(), TASK, RUN)


class _Constant(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0 + torch.tensor([0.0, 0, 1, 0, 0])
