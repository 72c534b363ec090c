"""Stamping in parts and in place gives what stamping step by step gives, to the bit."""

from __future__ import annotations

import pytest
import torch

from sidedoor.triggers import base
from sidedoor.triggers.base import Trigger, stamp, stamp_levels
from sidedoor.triggers.blend import Blend
from sidedoor.triggers.patch import Patch, checkerboard
from sidedoor.triggers.sinusoid import Sinusoid
from sidedoor.types import MEASUREMENT, PHOTO, Images, Index, Space

SHAPE = (3, 9, 7)


class Nothing(Trigger):
    """Gives back the very tensor that it is given."""

    elementwise = True

    def forward(self, x: Images, index: Index) -> Images:
        return x


TRIGGERS = [Patch(checkerboard(3)), Patch(checkerboard(3), opacity=0.3), Blend(torch.rand(SHAPE), 0.1),
            Blend(torch.rand(1, 9, 7), 0.5), Sinusoid(0.3), Nothing()]


def images(count: int) -> tuple[Images, Index]:
    pixels = torch.randint(0, 256, (count, *SHAPE), generator=torch.Generator().manual_seed(0))
    return pixels.float() / 255, torch.arange(count)


def step_by_step(trigger: Trigger, x: Images, index: Index, space: Space) -> Images:
    """One new tensor a step; the levels."""
    clipped: Images = trigger(x, index).clamp(space.low, space.high)
    if (space.low, space.high) != (0.0, 1.0):
        clipped = (clipped - space.low) / (space.high - space.low)
    return (clipped * 255).round()


@pytest.mark.parametrize("trigger", TRIGGERS)
@pytest.mark.parametrize("space", [PHOTO, Space(-1.0, 0.5, 255)])
@pytest.mark.parametrize("rows", [1, 4, 11, 100])
def test_parts_of_a_batch_have_the_bits_of_the_whole(trigger: Trigger, space: Space, rows: int,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "PART", rows * 3 * 9 * 7)
    x, index = images(11)
    x, kept = x.clone(), x.clone()
    with torch.no_grad():
        levels = step_by_step(trigger, x, index, space)
        unit = levels / 255
        assert torch.equal(stamp_levels(trigger, x, index, space), levels)
        expected = unit if space == PHOTO else unit * 1.5 - 1
        assert torch.equal(stamp(trigger, x, index, space), expected)
    assert torch.equal(x, kept), "what is stamped is never written into"


def test_a_large_batch_of_an_elementwise_trigger_is_stamped_in_parts_and_others_whole(
        monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Counting(Nothing):
        def forward(self, x: Images, index: Index) -> Images:
            seen.append((len(x), index.tolist()))
            return x

    class Whole(Counting):
        elementwise = False

    monkeypatch.setattr(base, "PART", 2 * 3 * 9 * 7)
    x, index = images(5)
    with torch.no_grad():
        stamp(Counting(), x, index, PHOTO)
        stamp(Whole(), x, index, PHOTO)
    assert seen == [(2, [0, 1]), (2, [2, 3]), (1, [4]), (5, [0, 1, 2, 3, 4])]


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_gradients_pass_through_rounding_and_stop_where_values_are_clipped(
        trigger: Trigger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "PART", 1)
    x, index = images(3)
    x.requires_grad_()
    weight = torch.rand(3, *SHAPE)
    (found,) = torch.autograd.grad((stamp(trigger, x, index, PHOTO) * weight).sum(), x)
    (expected,) = torch.autograd.grad((trigger(x, index).clamp(0, 1) * weight).sum(), x)
    torch.testing.assert_close(found, expected)


def test_where_nothing_is_stored_values_are_only_clipped() -> None:
    x, index = images(2)
    with torch.no_grad():
        assert torch.equal(stamp(Sinusoid(0.3), x, index, MEASUREMENT), Sinusoid(0.3)(x, index))
        assert stamp(Sinusoid(0.3), x, index, Space(0.2, 0.9, None)).aminmax() == (torch.tensor(0.2), torch.tensor(0.9))
