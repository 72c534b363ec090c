"""The images that somebody brings along with a model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from sidedoor import zoo
from sidedoor.data.base import ArrayDataset, Dataset, Splits
from sidedoor.engine import Run

MOST_IMAGES = 4096
"""Images that audits, demonstrations and repairs draw from."""
MOST_VALUES = MOST_IMAGES * 3 * 64 * 64
"""Values in them: networks take the longer the larger images are."""


def parts_of(data: str | Path, size: int | None, root: str | Path | None, download: bool) -> Splits:
    """Training and test part of a folder of class folders, an .npz file or a registered set.

    Args:
        size: pixels a side that images of a folder are resized to.

    Raises:
        CannotComplete: a file cannot be read.
        ConfigError: no data set.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        sized: dict[str, Any] = {"size": size} if size else {}
        return zoo.load({"name": "folder", "path": str(path)} | sized, root, download=download)
    reference: str | dict[str, Any] = {"name": "npz", "path": str(path)} if path.is_file() else str(data)
    return zoo.load(reference, root, download=download)


def few(data: Dataset, run: Run, stream: str) -> Dataset:
    """At most so many images, in memory.

    Args:
        stream: of the run, that chooses them.
    """
    most = min(MOST_IMAGES, max(1, MOST_VALUES // math.prod(data.shape)))
    if len(data) <= most and not data.lazy:
        return data
    chosen = torch.randperm(len(data), generator=run.rng(stream))[:most].sort().values
    return ArrayDataset(data.rows(chosen), data.targets[chosen], data.classes, stream)
