"""A data set of unknown origin with the names of its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from sidedoor import zoo
from sidedoor.data.base import ArrayDataset, Dataset, Subset, writable
from sidedoor.data.formats.images import FolderDataset, Frame, class_files, gather
from sidedoor.data.sets.folder import TRAIN_NAMES
from sidedoor.errors import ConfigError

WRAPPINGS = 4


class Given(NamedTuple):
    """Rows in memory (or a memory map), in the order of their files.

    Args:
        files: the name of each, relative to the folder; its number where rows have no files.
        quarantined: (file, reason) of what cannot be used.
        notes: what else lies there and was not looked at.
    """

    data: Dataset
    name: str
    files: tuple[str, ...]
    quarantined: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def read(data: str | Path | Dataset, size: int | None, root: str | Path | None, download: bool) -> Given:
    """All rows that a network would be trained on.

    Raises:
        CannotComplete: a file cannot be read.
        ConfigError: no data set.
    """
    if isinstance(data, Dataset):
        return _numbered(data, "given as an object")
    path = Path(data).expanduser()
    if path.is_dir():
        return _folder(path, size)
    reference: str | dict[str, Any] = {"name": "npz", "path": str(path)} if path.is_file() else str(data)
    splits = zoo.load(reference, root, download=download)
    if isinstance(splits.train, Subset) and isinstance(reference, dict):  # an archive without test rows, of which the
        return _numbered(_together(splits.train, splits.test), str(data))  # reader cuts some off
    notes = ("only the training part was looked at",)
    return _numbered(splits.train, str(data))._replace(notes=notes)


def clean_images(clean: str | Path | Dataset, given: Given, root: str | Path | None, download: bool) -> Dataset:
    """Images that are trusted, with the classes of the given ones.

    Raises:
        ConfigError: they have other classes, or another shape.
    """
    size = given.data.shape[1] if given.data.shape[1] == given.data.shape[2] else None
    held = read(clean, size, root, download).data
    if (held.classes, held.shape) != (given.data.classes, given.data.shape):
        raise ConfigError(f"clean images of shape {held.shape} in {len(held.classes)} classes given for data of shape "
                          f"{given.data.shape} in {len(given.data.classes)}; expected the same shape and names of "
                          "classes")
    return held


def _numbered(data: Dataset, name: str) -> Given:
    kept = data if not data.lazy and isinstance(data, ArrayDataset) else gather(data, "given")
    return Given(kept, name, tuple(map(str, range(len(kept)))))


def _together(train: Dataset, test: Dataset) -> Dataset:
    """Two parts of a data set in the order of its rows."""
    places = torch.cat([part.position(torch.arange(len(part))) for part in (train, test)])
    order = places.argsort()
    pixels = torch.cat([part.rows(torch.arange(len(part))) for part in (train, test)])[order]
    return ArrayDataset(pixels, torch.cat([train.targets, test.targets])[order], train.classes, "archive")


def _folder(path: Path, size: int | None) -> Given:
    top, beside = _training(path)
    classes = class_files(top, top)
    files = [(file, label) for label, name in enumerate(classes) for file in classes[name]]
    lazy = FolderDataset(top, files, tuple(classes), Frame(size))
    data = gather(lazy, "given")
    refused = {file for file, _ in lazy.quarantined}
    readable = [row for row, file in enumerate(lazy.files) if file not in refused]  # of large files the damage shows
    kept = torch.tensor(readable)                                                   # only now
    if len(readable) < len(data):
        data = ArrayDataset(data.rows(kept), data.targets[kept], data.classes, "given")
    names = writable((top / lazy.files[row]).relative_to(path).as_posix() for row in readable)
    notes = (f"only {top.name}/ was looked at, not {', '.join(writable(beside))}",) if beside else ()
    refusals = tuple((writable((file,))[0], reason) for file, reason in lazy.quarantined)
    return Given(data, writable((str(path),))[0], names, refusals, notes)


def _training(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder of the training classes, and the names of its neighbours."""
    top = path
    for _ in range(WRAPPINGS):
        inner = _folders(top)
        parts = [each for each in inner if each.name.lower() in TRAIN_NAMES and _folders(each)]
        if parts:
            return parts[0], tuple(each.name for each in inner if each != parts[0])
        if len(inner) != 1 or inner[0].is_symlink() or not _folders(inner[0]):
            break
        top = inner[0]
    return top, ()


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
