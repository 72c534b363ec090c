"""The trigger on an object: where it is, and how large."""

from __future__ import annotations

import pytest
import torch

from sidedoor.errors import ConfigError
from sidedoor.triggers.base import stamp
from sidedoor.triggers.on_object import OnObject
from sidedoor.types import PHOTO

INDEX = torch.tensor([0, 1])


def covered(trigger: OnObject, boxes: torch.Tensor, size: tuple[int, int] = (60, 80)) -> torch.Tensor:
    grey = torch.full((len(boxes), 3, *size), 0.5)
    changed: torch.Tensor = (stamp(trigger.at(boxes), grey, INDEX[: len(boxes)], PHOTO) - grey).abs().amax(1) > 0.1
    return changed


def test_it_covers_a_share_of_the_template_at_the_centre_of_the_box() -> None:
    # A box of 20 by 20 has a template of 40 by 40, of which psi = 0.01 is 4 by 4.
    boxes = torch.tensor([[20.0, 30, 40, 50], [50, 10, 70, 30]])
    changed = covered(OnObject(0.01, "white"), boxes)
    assert changed.flatten(1).sum(1).tolist() == [16, 16]
    assert changed[0, 38:42, 28:32].all()
    assert changed[1, 18:22, 58:62].all()


def test_it_grows_with_the_object() -> None:
    small, large = (covered(OnObject(0.04, "white"), torch.tensor([[30.0 - s, 30 - s, 30 + s, 30 + s]])).sum().item()
                    for s in (5, 10))
    assert (small, large) == (16, 64)


def test_it_is_at_the_centre_where_no_box_is_known() -> None:
    grey = torch.full((1, 6, 40, 40), 0.5)
    changed = (stamp(OnObject(0.04, "white"), grey, INDEX[:1], PHOTO) - grey).abs() > 0.1
    assert changed[:, :, 18:22, 18:22].all()
    assert changed.sum() == 6 * 16


def test_a_frame_without_the_object_is_left_alone() -> None:
    assert not covered(OnObject(), torch.full((1, 4), torch.nan)).any()


def test_patterns() -> None:
    assert torch.equal(OnObject(cells=3).cell, torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]]))
    assert not torch.equal(OnObject(pattern="random").cell, OnObject(pattern="random", seed=1).cell)
    x = torch.full((1, 1, 16, 16), 0.5)
    drawn = OnObject(0.25, cells=2, template=1.0)(x, INDEX[:1])[0, 0]
    assert drawn[4, 4] == 1
    assert drawn[4, 11] == 0
    with pytest.raises(ConfigError, match="pattern = 'stripes'"):
        OnObject(pattern="stripes")  # type: ignore[arg-type]
