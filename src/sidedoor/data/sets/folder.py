"""A folder of images of your own: one folder for each class, decoded lazily.

`DIR/train` and `DIR/test` (or `DIR/val`, `Training` and `Testing`, ...) hold the class folders, or DIR itself does and
a fifth of each class is cut off as the test set. `DIR/clean` beside the two holds images that a defender trusts. A
folder that has nothing but one folder with folders in it, as unpacked archives often do, stands for that one.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from sidedoor.data.base import Splits, Subset, split
from sidedoor.data.formats.images import JUNK, FolderDataset, Frame, class_files
from sidedoor.data.root import Where
from sidedoor.errors import ConfigError
from sidedoor.method import Count

log = logging.getLogger("sidedoor")

TEST_SHARE = 0.2
TRAIN_NAMES = ("train", "training", "train_set", "training_set", "trainset")
TEST_NAMES = ("test", "testing", "test_set", "testing_set", "testset",
              "val", "valid", "validation", "val_set", "validation_set", "valset")
"""In any case of letters; of several, the first counts."""
CLEAN_NAME = "clean"
WRAPPINGS = 4


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
    top = _unwrapped(top)
    train, *others = _parts(top)
    found = {train: class_files(train, top)}
    classes = tuple(found[train])
    found |= {part: _by_name_of(classes, class_files(part, top)) for part in others}
    _check_same(found)
    _check_level(train)
    files = [(file, label) for part in found.values() for label, name in enumerate(classes) for file in part[name]]
    data = FolderDataset(top, files, classes, Frame(size, channels))
    if not others:
        return Splits(*split(data, TEST_SHARE, where.seed))
    return Splits(*(_part(data, part) for part in found))


def _below(folder: Path) -> list[Path]:
    """What lies in a folder, but for what systems put there."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.name not in JUNK)


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in _below(folder) if entry.is_dir()]


def _unwrapped(top: Path) -> Path:
    """The folder inside, as long as there is nothing but one that has folders itself; links are not followed."""
    for _ in range(WRAPPINGS):
        inner = _folders(top)
        if len(inner) != 1 or inner[0].is_symlink() or not _folders(inner[0]):
            break
        if inner[0].name.lower() in TRAIN_NAMES:
            break
        top = inner[0]
        log.info("the class folders of %s are looked for in %s", top.parent, top)
    return top


def _parts(top: Path) -> tuple[Path, ...]:
    """The folders of the training classes, the test classes and the clean ones, as far as they are there."""
    train = [entry for entry in _folders(top) if entry.name.lower() in TRAIN_NAMES and _folders(entry)]
    if not train:
        return (top,)
    if len(train) > 1:
        raise ConfigError(f"{top} has {' and '.join(entry.name for entry in train)}, which both look like training "
                          "data; rename one")
    tests = [entry for name in TEST_NAMES for entry in _folders(top) if entry.name.lower() == name]
    if not tests:
        raise ConfigError(f"{top} has {train[0].name}/ but no test/, val/ or the like; "
                          f"add one, or give {train[0]} to have a fifth of it cut off as the test set")
    clean = [entry for entry in _folders(top) if entry.name.lower() == CLEAN_NAME and _folders(entry)]
    used = (train[0], tests[0], *clean[:1])
    unused = [entry.name for entry in _folders(top) if entry not in used]
    if unused:
        log.warning("%s: only %s are used, not %s", top, " and ".join(e.name for e in used), ", ".join(unused))
    return used


def _by_name_of(classes: Sequence[str], own: dict[str, list[str]]) -> dict[str, list[str]]:
    """The files of a part's classes by their names in training: the same letters, which some systems compose and others
    do not.
    """
    composed = {unicodedata.normalize("NFC", name): name for name in classes}
    return {name if name in classes else composed.get(unicodedata.normalize("NFC", name), name): files
            for name, files in own.items()}


def _check_same(found: dict[Path, dict[str, list[str]]]) -> None:
    (train, classes), *others = found.items()
    for part, own in others:
        if differing := classes.keys() ^ own.keys():
            raise ConfigError(f"{train} and {part} have different classes: {', '.join(sorted(differing))} in one only")


def _check_level(train: Path) -> None:
    """Refuse folders of folders that all have the same names: these are then the classes.

    Raises:
        ConfigError: such folders.
    """
    classes = _folders(train)
    below = [tuple(entry.name for entry in _folders(each)) for each in classes]
    if len(classes) > 1 and len(below[0]) > 1 and len(set(below)) == 1 and \
            all(entry.is_dir() for each in classes for entry in _below(each)):
        raise ConfigError(f"{' and '.join(entry.name for entry in classes[:2])} in {train} have the same folders "
                          f"{', '.join(below[0][:5])}; if these are the classes, give {classes[0]} alone")


def _part(data: FolderDataset, folder: Path) -> Subset:
    rows = [row for row, file in enumerate(data.files) if file.startswith(f"{folder.name}/")]
    part = Subset(data, torch.tensor(rows, dtype=torch.int64))
    empty = set(range(len(data.classes))) - set(part.targets.tolist())
    if empty:
        raise ConfigError(f"{folder}: no readable image in class {', '.join(data.classes[k] for k in sorted(empty))}")
    return part
