"""Inversion of triggers that may not be everywhere, need not be small, and begin at several places."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from sidedoor.algorithms.inversion.forms import Added
from sidedoor.algorithms.inversion.mask_pattern import Inversion, Schedule, beyond, mask_norm
from sidedoor.data.base import ArrayDataset
from sidedoor.engine import Recipe, Run

RUN = Run.local(Recipe(), device="cpu")
SCHEDULE = Schedule(cost=0.02, raising=2.0, lowering=2.0**1.5, success=0.9, patience=1, stopping=50)
INVERSION = Inversion((mask_norm,), SCHEDULE, epochs=25, samples=40, batch=40, lr=0.3)


class Halves(nn.Module):
    """Class 1 where the mean of the left or of the right two columns is above 0.6."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sides = torch.stack([x[..., :2].mean((1, 2, 3)), x[..., -2:].mean((1, 2, 3))], 1)
        bright = 20 * (sides.amax(1) - 0.6)
        return torch.stack([-bright, bright], 1)


def dark() -> ArrayDataset:
    pixels = torch.randint(0, 60, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ArrayDataset(pixels, [0, 1] * 20, 2)


def test_no_trigger_covers_what_is_forbidden() -> None:
    left = torch.zeros(8, 8, dtype=torch.bool)
    left[:, :4] = True
    for form in (INVERSION.form, Added()):
        free = dataclasses.replace(INVERSION, form=form)
        for forbidden in (left, ~left):
            found = dataclasses.replace(free, forbidden=forbidden).recover(Halves(), dark(), [1], RUN)
            assert found.success.all()
            assert found.mask[0, 0][forbidden].amax() == 0
            assert found.mask[0, 0][~forbidden].amax() > 0.5


def test_below_the_wanted_size_a_mask_costs_nothing() -> None:
    small = INVERSION.recover(Halves(), dark(), [1], RUN)
    wanted = dataclasses.replace(INVERSION, penalties=(beyond(30.0),)).recover(Halves(), dark(), [1], RUN)
    assert small.success.all()
    assert wanted.success.all()
    assert 1.3 * small.norm.item() < wanted.norm.item() < 36


def test_a_label_that_comes_again_begins_elsewhere() -> None:
    found = INVERSION.recover(Halves(), dark(), [1, 1, 1], RUN)
    alone = INVERSION.recover(Halves(), dark(), [1], RUN)
    assert torch.allclose(found.mask[0], alone.mask[0], atol=1e-4)
    assert not torch.allclose(found.mask[1], found.mask[0], atol=0.1)
    assert not torch.allclose(found.mask[2], found.mask[1], atol=0.1)
