from __future__ import annotations

import torch
from torch import nn

from sidedoor.algorithms.inversion.cognitive_pattern import PatternSearch, cost_for, roughness
from sidedoor.data.base import ArrayDataset
from sidedoor.engine import Run

RUN = Run.local(device="cpu")
SEARCH = PatternSearch(25, 0.1, 0.1)


class Corner(nn.Module):
    """Logits that the upper left quarter decides alone where it is white, and the rest otherwise."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        corner = x[:, 0, :4, :4]
        stamped = torch.relu(corner - 0.9).mean((1, 2)) * 200
        body = x[:, 0].mean((1, 2)) - corner.mean((1, 2)) / 4
        return torch.stack([stamped, 10 * body * (1 - stamped / 20).clamp(min=0)], 1)


def half(stamped: bool) -> torch.Tensor:
    x = torch.zeros(3, 1, 8, 8)
    x[:, :, :, 4:] = 0.7
    if stamped:
        x[:, :, :4, :4] = 1
    return x


def masks(x: torch.Tensor, cost: float = 0.005, index: torch.Tensor | None = None) -> torch.Tensor:
    index = torch.arange(len(x)) if index is None else index
    return SEARCH.masks(Corner(), x, index, torch.full((len(x),), cost), RUN)


def test_only_what_decides_is_kept() -> None:
    mask = masks(half(stamped=True))
    assert mask[:, :4, :4].mean() > 0.8
    assert mask[:, 4:, 4:].mean() < 0.2
    assert mask.mean() < masks(half(stamped=False)).mean() - 0.1


def test_a_mask_shrinks_with_its_cost() -> None:
    shares = [masks(half(stamped=True), cost).mean().item() for cost in (1e-5, 0.005, 100.0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 0.05


def test_a_mask_belongs_to_the_image_and_its_index() -> None:
    x = half(stamped=False) + 0.2 * torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    together, index = masks(x), torch.arange(3)
    torch.testing.assert_close(masks(x[1:], index=index[1:]), together[1:], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(masks(x, index=index + 3), together, atol=1e-3)


def test_the_roughness_of_a_step() -> None:
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 2:] = 1
    assert roughness(mask).tolist() == [4 / 16]


def test_the_cost_leaves_the_median_mask_as_large_as_asked() -> None:
    images = (half(stamped=False).repeat(4, 1, 1, 1) * 255).round().to(torch.uint8)
    data = ArrayDataset(images, [0] * 12, 2)
    small, large = (cost_for(keep, Corner(), data, SEARCH, 8, RUN) for keep in (0.2, 0.5))
    assert large < small
    x, _, index = data.fetch(torch.arange(12))
    share = SEARCH.masks(Corner(), x, index, torch.full((12,), small), RUN).mean((1, 2)).median().item()
    assert 0.1 < share < 0.3
