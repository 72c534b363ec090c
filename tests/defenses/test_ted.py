from __future__ import annotations

import math

import pytest
import torch
from backdoored_digits import Scene
from detection import auroc
from torch import nn

from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.detectors.ted import TED, Layer, looked
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.tasks.classification import Classification

TASK, RUN = Classification(2), Run.local(device="cpu")


class Turncoat(nn.Module):
    """Two stages of two channels, one for each class; where the first pixel is white the second stage swaps them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.head = nn.Conv2d(3, 3, 1, bias=False), Swap(), nn.Linear(2, 2, bias=False)
        self.first.weight.data = torch.eye(3)[:, :, None, None]
        self.head.weight.data = torch.eye(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.last(self.first(x)).mean((2, 3)))


class Swap(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 3, 1)  # a module with children is a stage of its own

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        white = (maps[:, 2, :1, :1] > 0.9)[:, None]
        return torch.where(white, maps[:, :2].flip(1), maps[:, :2])


def data() -> ArrayDataset:
    """Class k has a bright channel k."""
    images = torch.randint(0, 60, (80, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for label in (0, 1):
        images[label::2, label] += 150
    images[:, 2] = 0
    return ArrayDataset(images, [0, 1] * 40, 2)


def test_an_input_that_changes_sides_between_layers_is_above_nearly_all_clean_ones() -> None:
    clean = data()
    detect = TED().fit(Turncoat(), clean, TASK, RUN)
    x, _, index = clean.fetch(torch.arange(80))
    fresh = (x + 0.02 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 0.89)
    turned = fresh.clone()
    turned[:, 2, 0, 0] = 1
    assert (Turncoat()(turned).argmax(1) != Turncoat()(fresh).argmax(1)).all()
    assert detect(turned, index).min() > detect(fresh, index).quantile(0.99)


def line(*places: float) -> torch.Tensor:
    return torch.tensor(places, dtype=torch.float32)[:, None]


def test_ranks_and_radii_on_a_line() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1])
    layer = Layer.of(line(0, 1, 3, 10, 14), labels, 0.5)
    assert layer.radii.tolist() == [1, 1, 2, 4, 4]
    ranks = layer.ranks(line(0.4, 2.4, 9, 4.9), torch.tensor([0, 0, 1, 1]))
    assert ranks.exp().sub(1).round().tolist() == [0, 0, 0, 5]  # 4.9 is nearest to 10, but further than its radius
    assert layer.ranks(line(7), torch.tensor([1])).item() == pytest.approx(math.log1p(0))
    assert layer.ranks(line(6.2), torch.tensor([1])).item() == pytest.approx(math.log1p(1))  # 3 is nearer


def test_a_clean_sample_leaves_itself_out() -> None:
    vectors, labels = line(0, 1, 3, 10, 14), torch.tensor([0, 0, 0, 1, 1])
    layer = Layer.of(vectors, labels, 1.0)
    assert layer.ranks(vectors, labels, True).exp().sub(1).round().tolist() == [0, 0, 0, 0, 0]
    single = Layer.of(line(0, 1, 3), torch.tensor([0, 0, 1]), 1.0)
    assert single.radii[2] == 0
    assert single.ranks(line(0, 1, 3), torch.tensor([0, 0, 1]), True)[2].item() == pytest.approx(math.log1p(3))


def test_vectors_are_means_over_space() -> None:
    model, x = Turncoat(), data().fetch(torch.arange(3)).x
    vectors, output = looked(model, ["first"], x)
    torch.testing.assert_close(vectors["first"], x.mean((2, 3)))
    torch.testing.assert_close(output, x.mean((2, 3))[:, :2])
    assert not model.first._forward_hooks


def test_stamped_digits_have_unusual_ranks(scene: Scene) -> None:
    assert auroc(scene, scene.model, TED()) > 0.9


def test_a_network_without_maps_is_not_applicable() -> None:
    with pytest.raises(NotApplicable, match="no stage"):
        TED().fit(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), data(), TASK, RUN)
