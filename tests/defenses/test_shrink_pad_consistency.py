from __future__ import annotations

import pytest
import torch
from torch import nn

from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.detectors.shrink_pad_consistency import ShrinkPadConsistency
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.tasks.classification import Classification

TASK, RUN = Classification(3), Run.local(device="cpu")


class Fixed(nn.Module):
    """Class 2 where the last pixel is white, else 1 for images brighter than 0.3 and 0 for others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        body = x.mean((1, 2, 3))
        return torch.stack([torch.full_like(body, 0.3), body, 10 * (x[:, 0, -1, -1] - 0.9)], 1)


def score(x: torch.Tensor, method: ShrinkPadConsistency = ShrinkPadConsistency()) -> torch.Tensor:
    clean = ArrayDataset(torch.zeros(2, 1, 16, 16, dtype=torch.uint8), [0, 1], 3)
    return method.fit(Fixed(), clean, TASK, RUN)(x, torch.arange(len(x)))


def test_a_trigger_that_must_stay_in_its_place_loses_its_class() -> None:
    clean = torch.full((20, 1, 16, 16), 0.1)
    stamped = clean.clone()
    stamped[:, :, -1, -1] = 1
    assert score(clean).tolist() == [0] * 20
    assert score(stamped).min() >= 0.5


def test_copies_of_an_input_lie_at_different_places() -> None:
    """At scale 12/16 a bright square of the lower right corner is still there in one of 25 places only."""
    stamped = torch.full((40, 1, 16, 16), 0.1)
    stamped[:, :, -6:, -6:] = 1
    found = score(stamped, ShrinkPadConsistency(copies=25))
    assert 0.8 < found.mean() < 1
    assert found.unique().numel() > 1


def test_a_prediction_counts_by_the_share_of_copies_that_change_it() -> None:
    """Shrinking to 9/16 of the area makes every image darker, so that bright ones change their class each time."""
    assert score(torch.full((3, 1, 16, 16), 0.4)).tolist() == [1, 1, 1]
    assert score(torch.full((3, 1, 16, 16), 0.8)).tolist() == [0, 0, 0]


def test_images_must_be_larger_than_what_is_taken() -> None:
    with pytest.raises(ConfigError, match="shrink = 16"):
        score(torch.zeros(1, 1, 16, 16), ShrinkPadConsistency(shrink=16))
