"""A NumPy archive of your own: uint8 `train_images` (n, h, w[, c]), `train_labels`, `test_images`, `test_labels`.

Without the two test arrays a fifth of each class is cut off as the test set. `clean_images` and `clean_labels` may hold
what a defender trusts, and `classes` the names of the classes. Pixels are streamed, so an archive larger than memory
becomes a memory map; nothing is ever unpickled.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from sidedoor.core import arrays, opening
from sidedoor.data.base import MEMORY_LIMIT, ArrayDataset, Splits, check_axes, numbered, split, storage
from sidedoor.data.root import Where
from sidedoor.errors import CannotComplete, ConfigError

TEST_SHARE = 0.2
CHUNK = 2**24
"""Bytes of pixels that are rearranged at a time."""
LIMIT = 2**40
"""Bytes of the largest archive."""


def npz(where: Where, path: str) -> Splits:
    """Read the archive at `path`, absolute or below the current folder or the data root.

    Raises:
        CannotComplete: the file is missing or damaged.
        ConfigError: arrays are missing, or are not what they should be.
    """
    return read(where.locate(path), where.seed)


def read(file: Path, seed: int, limit: int = MEMORY_LIMIT) -> Splits:
    """The parts of an archive; a part with more than `limit` bytes of pixels becomes a memory map."""
    try:
        with opening.opened(file, LIMIT) as stream, opening.archive(stream) as archive:
            return _splits(archive, seed, limit)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    except arrays.DAMAGE as error:
        raise CannotComplete(f"{file} cannot be read as a NumPy archive: {error}") from error


def _splits(archive: zipfile.ZipFile, seed: int, limit: int) -> Splits:
    names = {name.removesuffix(".npy") for name in archive.namelist()}
    parts = ["train", *(part for part in ("test", "clean") if names & {f"{part}_images", f"{part}_labels"})]
    missing = {f"{part}_{what}" for part in parts for what in ("images", "labels")} - names
    if missing:
        raise ConfigError(f"{', '.join(sorted(missing))} missing; it has {', '.join(sorted(names)[:20]) or 'nothing'}")
    labels = [_small(archive, f"{part}_labels", "iu") for part in parts]
    classes = tuple(map(str, _small(archive, "classes", "U"))) if "classes" in names else numbered(*labels)
    data = {part: ArrayDataset(_pixels(archive, f"{part}_images", len(y), limit), y, classes, f"{part}_images")
            for part, y in zip(parts, labels, strict=True)}
    for part, found in data.items():
        if found.shape != data["train"].shape:
            raise ConfigError(f"train_images of shape {data['train'].shape} and {part}_images of shape {found.shape} "
                              "given; expected the same")
    if "test" in data:
        return Splits(**data)
    train, test = split(data["train"], TEST_SHARE, seed)
    return Splits(train, test, data.get("clean"))


def _small(archive: zipfile.ZipFile, name: str, kinds: str) -> np.ndarray:
    """An array of labels or names, (n,) also where it is a column (n, 1)."""
    with archive.open(f"{name}.npy") as file:
        shape, _, dtype = arrays.header(file, name)
        flat = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
        if not flat or shape[0] == 0 or dtype.kind not in kinds:
            raise ConfigError(f"{name} of type {dtype} and shape {shape} given; "
                              f"expected one {'name' if kinds == 'U' else 'integer'} a row")
        arrays.check_length(archive, name, shape, dtype)
        return np.frombuffer(file.read(shape[0] * dtype.itemsize), dtype, shape[0])


def _pixels(archive: zipfile.ZipFile, name: str, rows: int, limit: int) -> np.ndarray:
    """(n, c, h, w) from (n, h, w[, c])."""
    with archive.open(f"{name}.npy") as file:
        shape, fortran, dtype = arrays.header(file, name)
        if dtype != np.uint8 or len(shape) not in (3, 4) or 0 in shape or fortran:
            raise ConfigError(f"{name} of type {dtype} and shape {shape}{' in Fortran order' if fortran else ''} "
                              "given; expected uint8 (n, height, width[, channels]) in C order")
        n, h, w, c = shape if len(shape) == 4 else (*shape, 1)
        check_axes(name, (h, w, c))
        if n != rows:
            raise ConfigError(f"{name}: {n} images but {rows} labels")
        arrays.check_length(archive, name, shape, dtype)
        images = storage((n, c, h, w), limit)
        step = max(1, CHUNK // (h * w * c))
        for start in range(0, n, step):
            count = min(step, n - start)
            raw = file.read(count * h * w * c)
            if len(raw) < count * h * w * c:
                raise EOFError(f"{name} ends after {start} of {n} images")
            images[start : start + count] = np.frombuffer(raw, np.uint8).reshape(count, h, w, c).transpose(0, 3, 1, 2)
    return images
