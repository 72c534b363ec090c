"""A folder of images of your own: one folder for each class, decoded lazily.

`DIR/train` and `DIR/test` (or `DIR/val`) hold the class folders, or DIR itself does and a fifth of each class is cut
off as the test set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from sidedoor.data.base import Splits, Subset, split
from sidedoor.data.formats.images import FolderDataset, Frame, class_files
from sidedoor.data.root import Where
from sidedoor.errors import ConfigError
from sidedoor.method import Count

TEST_SHARE = 0.2
TEST_NAMES = ("test", "val", "valid", "validation")


def folder(
    where: Where, path: str, size: Count | None = None, channels: Literal[1, 3] | None = None
) -> Splits:
    """Read the images below `path`. Files that cannot be used are quarantined, see `FolderDataset`.

    Args:
        path: the folder, absolute or below the current folder or the data root.
        size: pixels a side to resize to. None: as the files, if they are all of one height and width, else 32.
        channels: 1 (grey) or 3 (RGB). None: 1 if all files are grey, else 3.

    Raises:
        CannotComplete: the folder does not exist.
        ConfigError: no classes, a class without a readable image, or classes that differ between train and test.
    """
    top = where.locate(path)
    if not top.is_dir():
        raise ConfigError(f"{top} is a file; expected a folder of class folders")
    train, test = _parts(top)
    found = {part: class_files(part, top) for part in (train, test) if part}
    classes = tuple(found[train])
    _check_same(train, test, found)
    files = [(file, label) for part in found.values() for label, name in enumerate(classes) for file in part[name]]
    data = FolderDataset(top, files, classes, Frame(size, channels))
    if test is None:
        return Splits(*split(data, TEST_SHARE, where.seed))
    held_out = torch.tensor([file.startswith(f"{test.name}/") for file in data.files])
    return Splits(_part(data, ~held_out, train), _part(data, held_out, test))


def _parts(top: Path) -> tuple[Path, Path | None]:
    """(folder of the training classes, folder of the test classes or None)."""
    train = top / "train"
    if not train.is_dir() or not any(entry.is_dir() for entry in train.iterdir()):
        return top, None
    test = next((top / name for name in TEST_NAMES if (top / name).is_dir()), None)
    if test is None:
        raise ConfigError(f"{top} has train/ but none of {', '.join(f'{name}/' for name in TEST_NAMES)}; "
                          f"add one, or give {train} to have a fifth of it cut off as the test set")
    return train, test


def _check_same(train: Path, test: Path | None, found: dict[Path, dict[str, list[str]]]) -> None:
    differing = found[train].keys() ^ found[test].keys() if test else None
    if differing:
        raise ConfigError(f"{train} and {test} have different classes: {', '.join(sorted(differing))} in one only")


def _part(data: FolderDataset, mask: torch.Tensor, folder: Path) -> Subset:
    part = Subset(data, torch.nonzero(mask)[:, 0])
    empty = set(range(len(data.classes))) - set(part.targets.tolist())
    if empty:
        raise ConfigError(f"{folder}: no readable image in class {', '.join(data.classes[k] for k in sorted(empty))}")
    return part
