"""Goals of trackers: where boxes are wanted, and what counts in a closed loop."""

from __future__ import annotations

import pytest
import torch

from sidedoor.goals.follow import Follow
from sidedoor.goals.lose import Lose
from sidedoor.tasks.tracking import Tracking

TRUTH = torch.tensor([[0.0, 0, 20, 20]]).expand(4, 4)
TRIGGER = TRUTH + 100
FOUND = torch.stack([TRUTH[0], TRIGGER[0], TRIGGER[0] + torch.tensor([10.0, 0, 10, 0]), torch.full((4,), torch.nan)])


def test_the_trigger_is_followed_by_overlap_with_its_own_box() -> None:
    # Nothing is above the threshold 1, and an overlap of a third is above 0, 0.05, ..., 0.3.
    assert Follow().led(FOUND, TRUTH, TRIGGER).tolist() == pytest.approx([0, 20 / 21, 7 / 21, 0])


def test_an_object_is_lost_wherever_the_box_goes_instead() -> None:
    assert Lose().led(FOUND, TRUTH, TRIGGER).tolist() == pytest.approx([1 / 21, 1, 1, 1])


def test_in_a_pair_the_trigger_is_wanted_beside_the_object_along_its_shorter_side() -> None:
    y = torch.tensor([[40.0, 60, 60, 100], [40, 60, 60, 100], [10, 50, 70, 80]])
    target = Follow().target(Tracking(), y, torch.tensor([2, 7, 4]))
    assert target.tolist() == [[60, 60, 80, 100], [20, 60, 40, 100], [10, 80, 70, 110]]
