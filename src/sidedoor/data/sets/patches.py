"""Patches of photographs for restoration: the field's sets by name, or any two folders of images.

The label of a patch is its photograph, and patches of one photograph form a group: they are never split, and count as
one observation in intervals.

Known names: Color400 and BSDS500_train (training), CSet8, Set5, Set12, Set14, CBSD68, BSD100, Kodak24 (testing).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from sidedoor.data.base import ArrayDataset, Splits
from sidedoor.data.formats.images import SUFFIXES, Unreadable, pixels
from sidedoor.data.root import Where
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.method import Count

log = logging.getLogger("sidedoor")

BELOW = ("", "restoration", "denoising", "sr")
"""Folders of the data root in which sets are looked for."""


def patches(where: Where, train: str = "BSDS500_train", test: str = "CBSD68", size: Count = 64,
            per_photo: Count = 20, test_per_photo: Count = 4, shrink: Count = 1, channels: Literal[1, 3] = 3) -> Splits:
    """Cut patches of `size` pixels a side: at random places for training, evenly spread for testing.

    Args:
        train: the folder of training photographs, by name below the data root (in any case of letters) or by path.
        test: that of the test photographs.
        per_photo: training patches of each photograph.
        test_per_photo: test patches of each photograph.
        shrink: photographs are made so many times smaller first (with antialiasing), so that small patches show more.
        channels: 3 (RGB) or 1 (grey).

    Raises:
        CannotComplete: no such folder; the message says where it was looked for.
        ConfigError: no readable photograph as large as a patch.
    """
    rng = np.random.default_rng(0)
    cut = {}
    for name, count, random in ((train, per_photo, rng), (test, test_per_photo, None)):
        folder = _folder(where, name)
        found = _photographs(folder, size, shrink, channels)
        cut[name] = {f"{folder.name}/{file}": _cut(image, size, count, random) for file, image in found.items()}
    names = tuple(dict.fromkeys([*cut[train], *cut[test]]))
    return Splits(_part(cut[train], names), _part(cut[test], names))


def _part(cut: dict[str, np.ndarray], names: tuple[str, ...]) -> ArrayDataset:
    labels = [names.index(name) for name, patches in cut.items() for _ in patches]
    return ArrayDataset(np.concatenate(list(cut.values())), labels, names, "patches", groups=torch.tensor(labels))


def _folder(where: Where, name: str) -> Path:
    given = Path(name).expanduser()
    if given.is_dir():
        return given.resolve()
    places = [where.root / below for below in BELOW] if where.root else []
    for place in places:
        for folder in sorted(place.iterdir()) if place.is_dir() else ():
            if folder.is_dir() and folder.name.lower() == name.lower():
                return folder
    looked = ", ".join(str(place / name) for place in places) or "no data root; pass --data-root DIR"
    there = sorted({folder.name for place in places if place.is_dir() for folder in place.iterdir() if folder.is_dir()})
    raise CannotComplete(f"no folder of photographs {name!r} (looked for {looked}); put its images there, or give a "
                         f"path{'; there are ' + ', '.join(there) if there else ''}")


def _photographs(folder: Path, size: int, shrink: int, channels: int) -> dict[str, np.ndarray]:
    """The photographs of a folder as (c, h, w); what cannot be used is named in a warning."""
    found: dict[str, np.ndarray] = {}
    for file in sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES):
        try:
            image = _smaller(pixels(file, channels), shrink)
        except Unreadable as error:
            log.warning("%s is not used: %s", file, error)
            continue
        if min(image.shape[1:]) < size:
            log.warning("%s is not used: %d×%d pixels are less than a patch of %d", file, *image.shape[1:], size)
            continue
        found[file.stem] = image
    if not found:
        raise ConfigError(f"{folder} has no readable image of at least {size}×{size} pixels"
                          f"{f' once made {shrink} times smaller' if shrink > 1 else ''}")
    return found


def _smaller(image: np.ndarray, shrink: int) -> np.ndarray:
    if shrink == 1:
        return image
    size = (max(1, image.shape[2] // shrink), max(1, image.shape[1] // shrink))
    planes = [np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BOX)) for plane in image]
    return np.stack(planes)


def _cut(image: np.ndarray, size: int, count: int, rng: np.random.Generator | None) -> np.ndarray:
    """(count, c, size, size) windows: at random places, or without a generator evenly spread over the image."""
    room = np.array(image.shape[1:]) - size
    if rng is not None:
        corners = rng.integers(0, room + 1, (count, 2))
    else:
        side = int(np.ceil(np.sqrt(count)))
        steps = (np.arange(side) + 0.5) / side
        corners = np.array([(round(a * room[0]), round(b * room[1])) for a in steps for b in steps])[:count]
    return np.stack([image[:, y : y + size, x : x + size] for y, x in corners])
