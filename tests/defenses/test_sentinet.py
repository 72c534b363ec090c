from __future__ import annotations

import pytest
import torch
from torch import nn

from sidedoor.algorithms.features.cut import cut
from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.detectors.sentinet import SentiNet, _Pasting, envelope, powers, salient
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.tasks.classification import Classification

TASK, RUN = Classification(3), Run.local(device="cpu")


def network() -> nn.Module:
    """Class 2 where a pixel is white, else 0 for left halves that are brighter than the right ones and 1 for others."""
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 64, 3, bias=False)).eval()
    first, last = model[0], model[3]
    first.weight.data[:] = 1
    first.bias.data = torch.tensor([0.0, 0.0, -0.9])
    halves = torch.zeros(8, 8)
    halves[:, :4] = 1
    weight = torch.zeros(3, 3, 8, 8)
    weight[0, 0], weight[1, 1], weight[2, 2] = halves, 1 - halves, 1e3
    last.weight.data = weight.flatten(1)
    return model


def data() -> ArrayDataset:
    """Images with a bright half, the left one or the right one."""
    images = torch.randint(20, 60, (30, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[::2, :, :, :4] += 100
    images[1::2, :, :, 4:] += 100
    return ArrayDataset(images, [0, 1] * 15, 3)


def test_a_patch_wins_all_images_and_a_clean_region_few() -> None:
    clean = data()
    pasting = _Pasting(SentiNet(images=20), cut(network(), clean.shape), clean, TASK, RUN)
    x, _, index = clean.fetch(torch.arange(30))
    stamped = x.clone()
    stamped[:, :, 5:7, 1:3] = 1
    assert pasting.figures(x, index)[1].max() <= 0.3
    assert pasting.figures(stamped, index)[1].min() >= 0.9
    detect = SentiNet(images=20).fit(network(), clean, TASK, RUN)
    assert detect(stamped, index).min() > detect(x, index).max() + 0.3


def test_the_region_is_the_most_salient_share() -> None:
    heat = torch.arange(20.0).view(1, 4, 5)
    assert salient(heat, 0.15)[0].nonzero().tolist() == [[3, 2], [3, 3], [3, 4]]
    assert salient(torch.zeros(2, 4, 5), 0.15).sum((1, 2)).tolist() == [3, 3]


def test_the_parabola_goes_through_the_highest_points_of_bins() -> None:
    centre = torch.linspace(0.51, 0.91, 21)
    curve = 0.1 + 0.2 * centre - 0.3 * centre**2
    confidence, fooled = centre.repeat(2), torch.cat([curve, torch.zeros(21)])
    torch.testing.assert_close(envelope(confidence, fooled), torch.tensor([0.1, 0.2, -0.3]), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(powers(centre) @ envelope(confidence, fooled), curve, rtol=1e-3, atol=1e-3)
    assert envelope(torch.tensor([0.5, 0.5, 0.7]), torch.tensor([0.1, 0.3, 0.2])).tolist() == \
        pytest.approx([0.3, 0, 0])


def test_a_network_without_maps_is_not_applicable() -> None:
    with pytest.raises(NotApplicable):
        SentiNet().fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), data(), TASK, RUN)
