"""Evaluation of saliency maps against a known trigger."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sidedoor.errors import ConfigError
from sidedoor.explain.faithful import chance, inside, pointing, recovery, standardised, vanilla
from sidedoor.metrics.agreement import kendalls_w


def corner(count: int = 1, size: int = 3, side: int = 28) -> Tensor:
    mask = torch.zeros(count, side, side, dtype=torch.bool)
    mask[:, -size:, -size:] = True
    return mask


def test_a_map_on_the_trigger_has_one_and_one_elsewhere_nothing() -> None:
    mask = corner(2)
    assert standardised(mask.float(), mask).tolist() == [1.0, 1.0]
    assert standardised(1 - mask.float(), mask).tolist() == [0.0, 0.0]
    assert standardised(-mask.float(), mask).tolist() == [0.0, 0.0]


def test_only_as_many_pixels_count_as_the_trigger_has() -> None:
    """Six of nine on it, three beside: 6 / 12; whatever lies below the ninth changes nothing."""
    mask = corner()
    maps = torch.linspace(0, 0.5, 784).reshape(1, 28, 28)
    maps[:, -3:, -3:] = torch.tensor([[3.0, 3, 0], [3, 3, 0], [3, 3, 0]])
    maps[:, 0, :3] = 2
    assert standardised(maps, mask).item() == pytest.approx(0.5)


@pytest.mark.parametrize("values", [[0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [2, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 5]])
def test_ties_have_the_mean_over_their_orders(values: list[float]) -> None:
    """Every order of six pixels, of which two are the trigger."""
    mask = torch.tensor([False, True, True, False, False, False])
    expected = []
    for order in itertools.permutations(range(6)):
        taken = sorted(order, key=lambda k: -values[k])[:2]  # a stable sort keeps the order of what ties
        both = sum(bool(mask[k]) for k in taken)
        expected.append(both / (4 - both))
    found = standardised(torch.tensor(values, dtype=torch.float32).reshape(1, 2, 3), mask.reshape(1, 2, 3))
    assert found.item() == pytest.approx(np.mean(expected))


@pytest.mark.parametrize(("side", "about"), [(28, 0.0058), (32, 0.0044)])
def test_a_constant_and_a_random_map_have_the_chance_value(side: int, about: float) -> None:
    mask = corner(side=side)
    assert chance(mask).item() == pytest.approx(about, abs=4e-4)
    noise = torch.rand(1500, side, side, generator=torch.Generator().manual_seed(0))
    assert standardised(noise, mask.expand(1500, -1, -1)).mean().item() == pytest.approx(chance(mask).item(), rel=0.1)


def test_the_most_salient_pixel_is_on_the_trigger_or_not() -> None:
    mask = corner(3, side=8)
    maps = torch.zeros(3, 8, 8)
    maps[0, 7, 7], maps[1, 0, 0] = 1, 1
    assert pointing(maps, mask).tolist() == [1.0, 0.0, pytest.approx(9 / 64)]


def test_boxes_of_a_perfect_map_are_those_of_the_trigger_wherever_it_is() -> None:
    mask = torch.zeros(3, 12, 12, dtype=torch.bool)
    mask[0, -3:, -3:], mask[1, 4:7, 5:9], mask[2, 0, 0] = True, True, True
    iou, boxes = vanilla(mask.float(), mask, 0.9)
    assert iou.tolist() == [1.0, 1.0, 1.0]
    assert boxes[1].tolist() == [3, 4, 8, 10]  # Canny's edges surround it
    assert inside(boxes, 12, 12)[mask].all()


def test_a_speck_far_away_decides_the_vanilla_evaluation_only() -> None:
    mask = corner(1, 3, 12)
    maps = mask.float()
    maps[0, 0, 0] = 0.95
    assert vanilla(mask.float(), mask, 0.9)[0].item() == 1
    assert vanilla(maps, mask, 0.9)[0].item() == pytest.approx(16 / 144)
    assert vanilla(maps, mask, 0.96)[0].item() == 1
    assert standardised(maps, mask).item() == 1


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_map_without_edges_has_no_box(value: float) -> None:
    mask = corner(2, 3, 12)
    iou, boxes = vanilla(torch.full((2, 12, 12), value), mask, 0.5)
    assert iou.tolist() == [0.0, 0.0]
    assert boxes.unique().tolist() == [-1]
    assert not inside(boxes, 12, 12).any()


class Bright(nn.Module):
    """Class 1 where the last pixel is white."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([0.9 - x[:, 0, -1, -1], x[:, 0, -1, -1] - 0.9], 1)


def test_pasting_the_original_into_the_box_recovers_the_prediction() -> None:
    x, mask = torch.full((3, 1, 12, 12), 0.3), corner(3, 3, 12)
    triggered = torch.where(mask[:, None], 1.0, x)
    assert Bright()(triggered).argmax(1).tolist() == [1, 1, 1]
    maps = torch.zeros(3, 12, 12)
    maps[0] = mask[0].float()
    maps[1, :3, :3] = 1
    found = recovery(Bright(), x, triggered, vanilla(maps, mask, 0.9)[1])
    assert found.recovered.tolist() == [1, 0, 0]
    assert found.difference.tolist() == [0, pytest.approx(9 / 144), pytest.approx(9 / 144)]
    assert found.boxless.tolist() == [0, 0, 1]


def test_what_cannot_be_ranked_is_refused() -> None:
    mask = corner(1, 3, 8)
    with pytest.raises(ConfigError, match="not finite"):
        standardised(torch.full((1, 8, 8), torch.nan), mask)
    with pytest.raises(ConfigError, match="no pixel"):
        standardised(torch.zeros(1, 8, 8), torch.zeros_like(mask))


def test_kendalls_w() -> None:
    order = np.array([[4.0, 3, 2, 1]])
    assert kendalls_w(order.repeat(3, 0)).w == pytest.approx(1)
    assert kendalls_w(np.concatenate([order, -order])).w == pytest.approx(0)
    assert kendalls_w(order.repeat(3, 0)).ranks.tolist() == [1, 2, 3, 4]
    # Two judges: W is (1 + Spearman's rho) / 2. These two have 1 - 6 * 2 / 60 = 0.8.
    assert kendalls_w(np.array([[4.0, 3, 2, 1], [3, 4, 2, 1]])).w == pytest.approx(0.9)
    assert kendalls_w(np.array([[2.0, 2, 1], [2, 2, 1]])).w == pytest.approx(1)  # with ties
    with pytest.raises(ValueError, match="no order"):
        kendalls_w(np.ones((2, 3)))
