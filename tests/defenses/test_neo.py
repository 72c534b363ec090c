from __future__ import annotations

import pytest
import torch
from torch import nn

from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.detectors.neo import NEO, dominant, grid
from sidedoor.engine import Run
from sidedoor.tasks.classification import Classification

TASK, RUN = Classification(3), Run.local(device="cpu")


class Halves(nn.Module):
    """The brighter half of an image, left or right; class 2 where two pixels beside each other are white."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        halves = [x[..., :8].mean((1, 2, 3)), x[..., 8:].mean((1, 2, 3))]
        pairs = (x[..., :-1].mean(1).minimum(x[..., 1:].mean(1))).amax((1, 2))
        return torch.stack([*halves, 1e3 * (pairs - 0.95)], 1)


def data(channels: int = 1, brightness: int = 150) -> ArrayDataset:
    """Images with a small bright thing in one half, by which one knows it."""
    images = torch.randint(20, 24, (30, channels, 16, 16), generator=torch.Generator().manual_seed(0),
                           dtype=torch.uint8)
    images[::2, :, 5:8, 2:5] += brightness
    images[1::2, :, 5:8, 11:14] += brightness
    return ArrayDataset(images, [0, 1] * 15, 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("corner", [(0, 0), (14, 14), (7, 7), (9, 3)])
def test_a_patch_wins_all_images_and_what_an_image_shows_none(channels: int, corner: tuple[int, int]) -> None:
    clean = data(channels)
    x, y, index = data(channels, 100).fetch(torch.arange(8))
    stamped = x.clone()
    top, left = corner
    stamped[:, :, top : top + 2, left : left + 2] = 1
    assert Halves()(x).argmax(1).equal(y)
    assert (Halves()(stamped).argmax(1) == 2).all()
    hidden = x.clone()
    hidden[:, :, 4:8, :] = x[:, :, :1, :1]
    assert not Halves()(hidden).argmax(1).equal(y), "blocks change clean labels, too"
    detect = NEO().fit(Halves(), clean, TASK, RUN)
    assert detect(stamped, index).tolist() == [1.0] * 8
    assert detect(x, index).max() <= 0.3


def test_inputs_without_a_block_that_matters_score_0() -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([0.0, 1.0, 0.0]).repeat(len(x), 1)

    x, _, index = data().fetch(torch.arange(4))
    assert NEO().fit(Constant(), data(), TASK, RUN)(x, index).tolist() == [0.0] * 4


@pytest.mark.parametrize(("height", "width", "step"), [(32, 32, 0.5), (28, 28, 0.5), (9, 13, 1.0), (3, 3, 0.5)])
def test_blocks_reach_every_pixel_and_hide_half_a_side_anywhere(height: int, width: int, step: float) -> None:
    blocks = grid(height, width, step)
    assert blocks.any(0).all()
    assert blocks.flatten(1).any(1).all()
    if step == 0.5:
        small = max(1, round(height / 4) // 2)
        windows = blocks.float().unfold(1, small, 1).unfold(2, small, 1).flatten(3).amin(3)
        assert windows.amax(0).all(), "wherever a trigger of half a block lies, one hides all of it"


def test_the_dominant_colour_is_that_of_the_most_pixels() -> None:
    x = torch.zeros(2, 3, 4, 5)
    x[0, :, :, :3] = torch.tensor([0.2, 0.4, 0.6])[:, None, None]
    x[0, :, 0, 0] = 1
    x[1] = 0.5
    expected = torch.tensor([[0.2, 0.4, 0.6], [0.5, 0.5, 0.5]])
    torch.testing.assert_close(dominant(x), expected)
