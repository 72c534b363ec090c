"""Where a trigger is."""

from __future__ import annotations

import pytest
import torch

from sidedoor.algorithms.trigger_area import trigger_area
from sidedoor.errors import NotApplicable
from sidedoor.testing.ground import images
from sidedoor.triggers.base import Trigger
from sidedoor.triggers.blend import Blend
from sidedoor.triggers.patch import Patch, checkerboard
from sidedoor.types import MEASUREMENT, PHOTO, Images, Index

X, INDEX = images((3, 16, 16), 4), torch.arange(4)


def test_a_patch_covers_all_of_its_rectangle_whatever_lies_below() -> None:
    x = X.clone()
    x[:, :, -3:, -3:] = checkerboard(3)  # as if it were there
    for opacity in (1.0, 0.5):
        found = trigger_area(Patch(checkerboard(3), opacity=opacity), x, INDEX, PHOTO)
        assert found[:, -3:, -3:].all()
        assert found.sum() == 4 * 9


class Moving(Trigger):
    """A white pixel in the row of the image's index."""

    def forward(self, x: Images, index: Index) -> Images:
        stamped = x.clone()
        stamped[torch.arange(len(x)), :, index, 5] = 1.0
        return stamped


def test_a_trigger_may_have_another_place_in_each_image() -> None:
    found = trigger_area(Moving(), X, INDEX, PHOTO)
    assert found.nonzero().tolist() == [[k, k, 5] for k in range(4)]


def test_whole_images_and_nothing_are_refused() -> None:
    with pytest.raises(NotApplicable, match=r"Blend changes 100% of the pixels.*at most 25%"):
        trigger_area(Blend(torch.rand(3, 16, 16), 0.5), X, INDEX, PHOTO)
    with pytest.raises(NotApplicable, match="changes nothing"):
        trigger_area(Patch(checkerboard(3), opacity=0.0), X, INDEX, PHOTO)
    with pytest.raises(NotApplicable, match="bounded range"):
        trigger_area(Patch(checkerboard(3)), X, INDEX, MEASUREMENT)
