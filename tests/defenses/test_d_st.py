"""D-ST and D-BR: labels of clean rows alone matter to features, and poisoned rows are unlearned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sidedoor.algorithms.contrastive import SimCLR, Views
from sidedoor.algorithms.inspection import inspection_model
from sidedoor.algorithms.splits import row_losses
from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.training.d_br import DBR
from sidedoor.defenses.training.d_st import DST, SemiSupervisedContrast
from sidedoor.engine import Recipe
from sidedoor.errors import ConfigError
from sidedoor.testing.ground import ground, sealed
from sidedoor.types import Batch


def contrast(y: list[int], clean: list[bool], cosines: Tensor) -> Tensor:
    """The loss of a batch of views."""
    data = ArrayDataset(torch.zeros(len(y), 1, 8, 8, dtype=torch.uint8), y, 3)
    objective = SemiSupervisedContrast(Views(), Recipe(), 0.1, data, torch.tensor(clean))
    similarity = (cosines / 0.1).fill_diagonal_(-torch.inf)
    return objective.loss(similarity, data.fetch(torch.arange(len(y))))


def test_the_loss_is_that_of_the_positives_of_each_view() -> None:
    torch.manual_seed(0)
    cosines = torch.rand(6, 6)
    cosines = (cosines + cosines.T) / 2
    near = {0: [3, 1, 4], 1: [4, 0, 3], 2: [5], 3: [0, 1, 4], 4: [1, 0, 3], 5: [2]}  # rows 0 and 1 are of a class
    e = (cosines / 0.1).exp().fill_diagonal_(0)
    p = e / e.sum(1, keepdim=True)
    expected = -torch.stack([torch.stack([p[i, j].log() for j in js]).mean() for i, js in near.items()]).mean()
    torch.testing.assert_close(contrast([1, 1, 1], [True, True, False], cosines), expected)


def test_without_clean_rows_it_is_the_loss_of_two_views() -> None:
    torch.manual_seed(0)
    cosines = torch.rand(8, 8)
    batch = Batch(torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64), torch.arange(4))
    expected = SimCLR(Views(), Recipe(), 0.1).loss((cosines / 0.1).fill_diagonal_(-torch.inf), batch)
    torch.testing.assert_close(contrast([1, 1, 1, 1], [False] * 4, cosines), expected)
    assert not torch.allclose(contrast([1, 1, 1, 1], [True] * 4, cosines), expected)


def test_rows_taken_for_poisoned_are_unlearned_and_those_taken_for_clean_are_not() -> None:
    here = ground(1)
    train, task = sealed(here.poisoned()), here.task
    run = replace(here.planting, history={})
    losses = []
    for clean, poisoned in ((1.0, 0.0), (0.0, 1.0)):
        method = DBR(epochs=1, apart_epochs=1, draws=1, unlearn_epochs=4, unlearn_lr=0.02, clean=clean,
                     poisoned=poisoned)
        model = method.train(train, task, here.build, run)
        losses.append(row_losses(model, train, task, run).mean().item())
    before = row_losses(inspection_model(train, task, here.build, run), train, task, run).mean().item()
    assert before < 0.1  # the premise
    assert losses[0] < 0.1
    assert losses[1] > before + 1


@pytest.mark.parametrize("method", [DST(clean=0.0, poisoned=0.0, apart_epochs=1, draws=1),
                                    DBR(clean=0.0, poisoned=0.0, apart_epochs=1, draws=1)])
def test_shares_that_leave_no_row_are_refused(method: DST | DBR) -> None:
    here = ground(1)
    with pytest.raises(ConfigError, match="raise `clean`"):
        method.train(sealed(here.poisoned()), here.task, here.build, replace(here.run, history={}))
