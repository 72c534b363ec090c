"""How many of the images that somebody brings are looked at."""

from __future__ import annotations

import torch

from sidedoor.data.base import ArrayDataset
from sidedoor.engine import Run
from sidedoor.vetting.images import MOST_IMAGES, few

RUN = Run.local(device="cpu")


def test_of_large_images_fewer_are_looked_at() -> None:
    count = MOST_IMAGES + 5
    small = ArrayDataset(torch.zeros(count, 1, 2, 2, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64), 2)
    assert len(few(small, RUN, "images")) == MOST_IMAGES
    large = ArrayDataset(torch.zeros(60, 3, 1024, 1024, dtype=torch.uint8), torch.arange(60) % 2, 2)
    chosen = few(large, RUN, "images")
    assert len(chosen) == 16
    assert 0 < chosen.targets.sum() < 16  # not the first ones
