"""What a varied trigger does: at the training condition nothing changes, and each axis changes what it names."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sidedoor.triggers.additive import Additive
from sidedoor.triggers.base import Axis, Trigger
from sidedoor.triggers.blend import Blend
from sidedoor.triggers.chain import Chain
from sidedoor.triggers.patch import Patch, checkerboard
from sidedoor.triggers.quantized import Quantized
from sidedoor.triggers.sinusoid import Sinusoid

X = torch.full((2, 3, 12, 14), 0.4)
INDEX = torch.arange(2)
INSIDE = Patch(checkerboard(3), place=(4, 5))
CORNER = Patch(checkerboard(3))


def stamped(trigger: Trigger, axis: Axis | None = None, amount: float = 0.0) -> Tensor:
    varied = trigger.varied(axis, amount) if axis else trigger
    assert varied is not None
    made: Tensor = varied(X, INDEX)
    return made


@pytest.mark.parametrize(("axis", "trained"), [
    ("right", 0), ("down", 0), ("value", 255), ("opacity", 1), ("size", 1), ("rotation", 0), ("blur", 0)])
@pytest.mark.parametrize("patch", [INSIDE, CORNER, Chain([CORNER, Patch(checkerboard(3), "top left")])])
def test_as_in_training_a_patch_is_what_it_was(patch: Trigger, axis: Axis, trained: float) -> None:
    assert not torch.equal(stamped(patch), X)
    assert torch.allclose(stamped(patch, axis, trained), stamped(patch), atol=1e-6)


def test_a_patch_moves_by_whole_pixels_and_leaves_the_image_where_it_was() -> None:
    assert torch.equal(stamped(INSIDE, "right", 2)[..., 4:7, 7:10], stamped(INSIDE)[..., 4:7, 5:8])
    assert torch.equal(stamped(INSIDE, "right", 2)[..., 5:7], X[..., 5:7])
    assert torch.equal(stamped(INSIDE, "down", -3)[..., 1:4, 5:8], stamped(INSIDE)[..., 4:7, 5:8])
    both = INSIDE.varied("right", 2)
    assert both is not None
    assert torch.equal(stamped(both, "down", -3)[..., 1:4, 7:10], stamped(INSIDE)[..., 4:7, 5:8])


def test_what_is_moved_out_of_the_image_is_lost() -> None:
    assert torch.equal(stamped(CORNER, "right", 3), X)
    assert (stamped(CORNER, "right", 1) != X)[0, 0].sum() == 6
    assert torch.equal(stamped(CORNER, "right", 1)[..., -2:], stamped(CORNER)[..., -3:-1])


def test_only_lit_pixels_change_their_value() -> None:
    grey = stamped(INSIDE, "value", 51)[0, 0, 4:7, 5:8]
    assert torch.allclose(grey, 0.2 * checkerboard(3)[0])
    white = Patch(torch.ones(1, 2, 2))
    assert torch.allclose(stamped(white, "value", 51)[..., -2:, -2:], torch.tensor(0.2))


def test_opacity_is_the_weight_of_the_pattern() -> None:
    assert torch.allclose(stamped(INSIDE, "opacity", 0.25), 0.75 * X + 0.25 * stamped(INSIDE))
    assert torch.equal(stamped(INSIDE, "opacity", 0), X)


@pytest.mark.parametrize("size", [2, 4])
def test_a_resized_patch_covers_so_many_pixels_and_stays_in_the_image(size: int) -> None:
    white = Patch(torch.ones(1, 2, 2), margin=1)
    assert (stamped(white, "size", size) != X)[0, 0].sum() == (2 * size)**2
    small = Patch(torch.ones(1, 4, 4), margin=1)
    assert (stamped(small, "size", 0.5) != X)[0, 0].nonzero().tolist() == [[8, 10], [8, 11], [9, 10], [9, 11]]


def test_a_patch_turns_anticlockwise_about_its_centre() -> None:
    bar = Patch(torch.tensor([[[1.0, 0, 0], [0, 0, 0], [0, 0, 0]]]), place=(4, 5))
    assert torch.allclose(stamped(bar, "rotation", 90)[0, 0, 4:7, 5:8],
                          torch.tensor([[0.0, 0, 0], [0, 0, 0], [1, 0, 0]]), atol=1e-4)
    whole = Patch(torch.ones(1, 5, 5), place=(3, 4))
    turned = (stamped(whole, "rotation", 45) - X)[0, 0]
    assert math.isclose(turned.sum().item(), (stamped(whole) - X)[0, 0].sum().item(), rel_tol=0.05)
    assert turned[:, 6].count_nonzero() >= 7  # its diagonal
    assert torch.allclose(turned, turned.flip(0).roll(-1, 0), atol=1e-4)


def test_blur_spreads_a_patch_without_darkening_it() -> None:
    white = Patch(torch.ones(1, 3, 3), place=(4, 5))
    soft = (stamped(white, "blur", 1) - X)[0, 0]
    assert math.isclose(soft.sum().item(), 9 * 0.6, rel_tol=0.01)
    assert 0 < soft[3, 6] < soft[4, 6] < soft[5, 6] < 0.6


def test_amplitude_scales_what_is_added() -> None:
    pattern = torch.rand(3, 12, 14, generator=torch.Generator().manual_seed(0))
    for trigger in (Blend(pattern, 0.3), Sinusoid(0.1, 3), Additive(pattern)):
        assert torch.equal(stamped(trigger, "amplitude", 0), X)
        assert torch.allclose(stamped(trigger, "amplitude", 2) - X, 2 * (stamped(trigger) - X), atol=1e-6)
        assert trigger.varied("right", 1) is None


def test_what_has_no_place_or_amplitude_cannot_be_varied() -> None:
    assert Quantized().varied("amplitude", 1) is None
    assert CORNER.varied("amplitude", 1) is None
    assert Chain([CORNER, Quantized()]).varied("right", 1) is None
