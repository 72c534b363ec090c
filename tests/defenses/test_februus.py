from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn

from sidedoor.algorithms.features.cut import cut
from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.purifiers.februus import THRESHOLDS, Februus, Fill, Inpainting, Region, rectangles, salience
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.tasks.classification import Classification
from sidedoor.types import Images

TASK, RUN = Classification(3), Run.local(device="cpu")


def network() -> nn.Module:
    """Class 2 where a pixel is white, else 0 for left halves that are brighter than the right ones and 1 for others."""
    first, last = nn.Conv2d(1, 3, 1), nn.Linear(3 * 64, 3, bias=False)
    nn.init.ones_(first.weight)
    first.load_state_dict(first.state_dict() | {"bias": torch.tensor([0.0, 0.0, -0.9])})
    halves = torch.zeros(8, 8)
    halves[:, :4] = 1
    weight = torch.zeros(3, 3, 8, 8)
    weight[0, 0], weight[1, 1], weight[2, 2] = halves, 1 - halves, 1e3
    last.weight.data = weight.flatten(1)
    return nn.Sequential(first, nn.ReLU(), nn.Flatten(), last).eval()


def data() -> ArrayDataset:
    """Images with a bright half, the left one or the right one."""
    images = torch.randint(20, 60, (30, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[::2, :, :, :4] += 100
    images[1::2, :, :, 4:] += 100
    return ArrayDataset(images, [0, 1] * 15, 3)


@pytest.mark.parametrize("fill", ["mean", "around", "trained"])
def test_a_patch_is_found_and_filled_and_the_labels_come_back(fill: Literal["mean", "around", "trained"]) -> None:
    clean, model = data(), network()
    x, y, index = clean.fetch(torch.arange(30))
    patch = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    patch[..., 5:7, 1:3] = True
    stamped = torch.where(patch, 1.0, x)
    assert (model(stamped).argmax(1) == 2).all()  # the premise
    purify = Februus(fill, area=0.2, steps=20).fit(model, clean, TASK, RUN)
    purified, undo = purify(stamped, index)
    changed = purified != stamped
    overlap = (changed & patch).sum((1, 2, 3)) / (changed | patch).sum((1, 2, 3))
    assert overlap.min() >= 0.3
    answer = undo(model(purified)).argmax(1)
    assert (answer == 2).float().mean() <= 0.2
    assert (answer == y).float().mean() >= 0.9
    assert (model(purify(x, index)[0]).argmax(1) == y).float().mean() >= 0.9


def test_grad_cam_explains_the_predicted_class() -> None:
    x = torch.full((1, 1, 8, 8), 0.2)
    x[..., :4] = 0.5
    label, heat = salience(cut(network(), (1, 8, 8)), x, TASK)
    assert label.tolist() == [0]
    torch.testing.assert_close(heat, x / 0.5)
    x[..., 7, 7] = 1
    label, heat = salience(cut(network(), (1, 8, 8)), x, TASK)
    assert label.tolist() == [2]
    assert heat.nonzero().tolist() == [[0, 0, 7, 7]]


def test_the_threshold_is_the_lowest_that_covers_and_changes_little() -> None:
    clean, whole = data(), cut(network(), (1, 8, 8))
    heat = salience(whole, clean.fetch(torch.arange(30)).x, TASK)[1]
    areas = [float((heat > threshold).float().mean()) for threshold in THRESHOLDS]

    def found(fill: Fill, area: float) -> float:
        return Februus(area=area).threshold(whole, fill, clean, TASK, RUN)

    def leaving(x: Images, region: Region) -> Images:
        return x

    def ruining(x: Images, region: Region) -> Images:
        """Turns the image around where more than a fifth is to be filled."""
        return torch.where(region.float().mean((1, 2, 3), keepdim=True) > 0.2, x.flip(3), x)

    assert found(leaving, 0.3) == next(t for t, area in zip(THRESHOLDS, areas, strict=True) if area <= 0.3)
    largest = heat.flatten(1).quantile(0.8, dim=1).max()  # above it no region has a fifth of the image
    assert found(ruining, 1.0) >= largest - 0.05
    with pytest.raises(NotApplicable, match="cover at most 1% of clean images"):
        found(leaving, 0.01)


def test_the_unet_does_not_see_what_it_fills() -> None:
    network = Inpainting((1, 8, 8), torch.full((1, 1, 1), 0.5)).eval()
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    region = torch.zeros(4, 1, 8, 8, dtype=torch.bool)
    region[..., 2:5, 2:5] = True
    assert torch.equal(network(x, region), network(torch.where(region, 1 - x, x), region))
    assert not torch.equal(network(x, region), network(torch.where(region, x, 1 - x), region))


def test_rectangles_are_at_most_half_of_the_sides_and_reach_the_corners() -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        region = rectangles(torch.zeros(500, 3, 16, 32))
    height, width = region.any(3).sum(2)[:, 0], region.any(2).sum(2)[:, 0]
    assert torch.equal(region.sum((1, 2, 3)), height * width)  # nothing but a rectangle
    assert [int(height.max()), int(width.max())] == [8, 16]
    assert 1 <= height.min() < width.min() <= 3
    share = region.float().mean(0)[0]
    assert share.min() > 0.01
    assert float(share[:, :1].mean()) == pytest.approx(float(share[:, -1:].mean()), abs=0.05)
