"""A NumPy archive of your own: uint8 `train_images` (n, h, w[, c]), `train_labels`, `test_images`, `test_labels`.

Without the two test arrays a fifth of each class is cut off as the test set. `classes` may hold the names of the
classes. Pixels are streamed, so an archive larger than memory becomes a memory map; nothing is ever unpickled.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from sidedoor.data.base import MEMORY_LIMIT, ArrayDataset, Splits, split, storage
from sidedoor.data.root import Where
from sidedoor.errors import CannotComplete, ConfigError

TEST_SHARE = 0.2
CHUNK = 2**24
"""Bytes of pixels that are rearranged at a time."""


def npz(where: Where, path: str) -> Splits:
    """Read the archive at `path`, absolute or below the current folder or the data root.

    Raises:
        CannotComplete: the file is missing or damaged.
        ConfigError: arrays are missing, or are not what they should be.
    """
    return read(where.locate(path), where.seed)


def read(file: Path, seed: int, limit: int = MEMORY_LIMIT) -> Splits:
    """The two parts of an archive; a part with more than `limit` bytes of pixels becomes a memory map."""
    try:
        with zipfile.ZipFile(file) as archive:
            return _splits(archive, seed, limit)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise CannotComplete(f"{file} cannot be read as a NumPy archive: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def _splits(archive: zipfile.ZipFile, seed: int, limit: int) -> Splits:
    names = {name.removesuffix(".npy") for name in archive.namelist()}
    parts = ("train", "test") if names & {"test_images", "test_labels"} else ("train",)
    missing = {f"{part}_{what}" for part in parts for what in ("images", "labels")} - names
    if missing:
        raise ConfigError(f"{', '.join(sorted(missing))} missing; it has {', '.join(sorted(names)) or 'nothing'}")
    labels = [_small(archive, f"{part}_labels", "iu") for part in parts]
    named = "classes" in names
    classes = tuple(map(str, _small(archive, "classes", "U"))) if named else 1 + max(int(y.max()) for y in labels)
    data = [ArrayDataset(_pixels(archive, f"{part}_images", limit), y, classes, f"{part}_images")
            for part, y in zip(parts, labels, strict=True)]
    if len(data) == 1:
        return Splits(*split(data[0], TEST_SHARE, seed))
    if data[0].shape != data[1].shape:
        raise ConfigError(f"training images of shape {data[0].shape} and test images of shape {data[1].shape} given; "
                          "expected the same")
    return Splits(*data)


def _small(archive: zipfile.ZipFile, name: str, kinds: str) -> np.ndarray:
    """An array of labels or names."""
    with archive.open(f"{name}.npy") as file:
        try:
            array = np.lib.format.read_array(file, allow_pickle=False)
        except ValueError as error:
            raise ConfigError(f"{name} is not a plain array: {error}") from error
    if array.ndim != 1 or len(array) == 0 or array.dtype.kind not in kinds:
        raise ConfigError(f"{name} of type {array.dtype} and shape {array.shape} given; "
                          f"expected one {'name' if kinds == 'U' else 'integer'} a row")
    return array


def _pixels(archive: zipfile.ZipFile, name: str, limit: int) -> np.ndarray:
    """(n, c, h, w) from (n, h, w[, c])."""
    with archive.open(f"{name}.npy") as file:
        shape = _shape(file, name)
        n, h, w, c = shape if len(shape) == 4 else (*shape, 1)
        images = storage((n, c, h, w), limit)
        step = max(1, CHUNK // (h * w * c))
        for start in range(0, n, step):
            count = min(step, n - start)
            raw = file.read(count * h * w * c)
            if len(raw) < count * h * w * c:
                raise EOFError(f"{name} ends after {start} of {n} images")
            images[start : start + count] = np.frombuffer(raw, np.uint8).reshape(count, h, w, c).transpose(0, 3, 1, 2)
    return images


def _shape(file: IO[bytes], name: str) -> tuple[int, ...]:
    """The shape that the header of an array of pixels gives."""
    try:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(file)
    except ValueError as error:
        raise ConfigError(f"{name} is not a plain array: {error}") from error
    if dtype != np.uint8 or len(shape) not in (3, 4) or 0 in shape or fortran:
        raise ConfigError(f"{name} of type {dtype} and shape {shape}{' in Fortran order' if fortran else ''} given; "
                          "expected uint8 (n, height, width[, channels]) in C order")
    return shape
