"""Patches of seven photographs that ship with scikit-image and scikit-learn, for restoration without a download.

The label of a patch is its photograph. Whole photographs are held out: two patches of one photograph share light,
texture and noise, so a split by patch would test on what was trained.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sidedoor.data.base import ArrayDataset, Splits
from sidedoor.data.formats.images import Unreadable, pixels
from sidedoor.data.root import Where, self_contained
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.method import Count

PHOTOGRAPHS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "coffee": ("skimage", "data/coffee.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
}
HELD_OUT = ("coffee", "flower")


@self_contained
def photos(where: Where, size: Count = 64) -> Splits:
    """Cut each photograph into a grid of patches of `size` pixels a side; what is left at its edges is dropped.

    Raises:
        ConfigError: patches larger than the smallest photograph.
        CannotComplete: a photograph is not in the installed package.
    """
    patches = {name: _patches(_photograph(*place), size) for name, place in PHOTOGRAPHS.items()}
    empty = [name for name, cut in patches.items() if len(cut) == 0]
    if empty:
        raise ConfigError(f"photos.size = {size} given; {', '.join(empty)} has no patch of that size")
    names = tuple(patches)

    def part(members: Sequence[str]) -> ArrayDataset:
        labels = [names.index(name) for name in members for _ in patches[name]]
        return ArrayDataset(np.concatenate([patches[name] for name in members]), labels, names, "photos")

    return Splits(part([name for name in names if name not in HELD_OUT]), part(HELD_OUT))


def _photograph(package: str, file: str) -> np.ndarray:
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin or "").parent / file if spec else Path(file)
    try:
        return pixels(path, 3)
    except Unreadable as error:
        raise CannotComplete(f"{path} cannot be read ({error}); reinstall {package}, whose wheel has it") from error


def _patches(image: np.ndarray, size: int) -> np.ndarray:
    """(n, c, size, size) from (c, h, w), row by row."""
    c, h, w = image.shape[0], image.shape[1] // size, image.shape[2] // size
    grid = image[:, : h * size, : w * size].reshape(c, h, size, w, size)
    return grid.transpose(1, 3, 0, 2, 4).reshape(h * w, c, size, size)
