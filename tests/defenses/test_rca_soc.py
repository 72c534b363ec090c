from __future__ import annotations

import torch
from torch import nn

from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.purifiers.rca_soc import RCASOC, channel_attention, plane_attention
from sidedoor.engine import Run
from sidedoor.tasks.classification import Classification


def square() -> torch.Tensor:
    x = torch.full((1, 3, 16, 16), 0.2)
    x[:, 0, 4:12, 4:12] = 0.8
    x[:, 1, 4:12, 4:12] = 0.5
    return x


def test_contours_stay_and_flat_regions_are_dimmed() -> None:
    x, clean = square(), ArrayDataset(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), [0], 2)
    purified, _ = RCASOC().fit(nn.Identity(), clean, Classification(2), Run.local(device="cpu"))(x, torch.arange(1))
    assert purified[0, 0, 8, 8] < 1e-4 < 0.1 < purified[0, 0, 4, 8]  # the middle of the square, and its border
    assert purified[0, 0, 0, 0] < 1e-4
    half, _ = RCASOC(0.5).fit(nn.Identity(), clean, Classification(2), Run.local(device="cpu"))(x, torch.arange(1))
    torch.testing.assert_close(half[0, 0, 8, 8], torch.tensor(0.4), rtol=1e-3, atol=1e-3)


def test_channels_count_by_their_deviation_and_places_by_their_laplacian() -> None:
    x = square()
    torch.testing.assert_close(channel_attention(x)[0, :, 0, 0], torch.tensor([1, 0.5, 0]), rtol=1e-4, atol=1e-4)
    attention = plane_attention(x)
    assert attention.amax() == 1
    torch.testing.assert_close(attention.flip(3), attention)  # the square is in the middle
    assert attention[0, 0, 4, 8] > 0.5 > 1e-3 > attention[0, 0, 8, 8]
    assert (plane_attention(torch.full((1, 1, 8, 8), 0.3)) == 1).all()  # nothing stands out: nothing is dimmed
