"""Figures of tracking, against values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from sidedoor.metrics.tracking import clipped, iou, precise, success

SQUARE = torch.tensor([0.0, 0, 10, 10])


def test_overlap_is_the_common_area_over_that_of_both() -> None:
    others = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 10, 5], [10, 0, 20, 10], [2, 2, 4, 7]])
    assert iou(SQUARE.expand(5, 4), others).tolist() == pytest.approx([1, 50 / 150, 0.5, 0, 0.1])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_box_that_is_not_finite_overlaps_nothing(value: float) -> None:
    assert iou(torch.full((4,), value), SQUARE) == 0


def test_success_is_the_share_of_thresholds_strictly_below() -> None:
    # 0 is above no threshold, 0.5 is above 0 to 0.45, 1 is above all but itself.
    values = success(torch.tensor([0.0, 0.01, 0.5, 0.51, 1.0]))
    assert (values * 21).tolist() == pytest.approx([0, 1, 10, 11, 20])


def test_the_mean_success_is_the_area_under_the_curve() -> None:
    overlaps = torch.tensor([0.12, 0.7, 0.33, 0.0])
    curve = [(overlaps > k / 20).float().mean().item() for k in range(21)]
    assert success(overlaps).mean().item() == pytest.approx(sum(curve) / 21)


def test_centres_twenty_pixels_apart_are_precise() -> None:
    found = SQUARE.expand(3, 4) + torch.tensor([[20.0, 0, 20, 0], [12, 16, 12, 16], [20.1, 0, 20.1, 0]])
    assert precise(found, SQUARE.expand(3, 4)).tolist() == [1, 1, 0]
    assert precise(found[:1], SQUARE[None], torch.tensor([10.0])).tolist() == [0]


def test_boxes_are_cut_off_at_the_edges() -> None:
    assert clipped(torch.tensor([[-5.0, 2, 30, 40]]), 20, 25).tolist() == [[0, 2, 25, 20]]
