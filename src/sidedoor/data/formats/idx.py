"""The IDX files of MNIST and its relatives, gzipped or not, read in place."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sidedoor.core import opening
from sidedoor.data.base import ArrayDataset, Splits
from sidedoor.data.root import Where, download
from sidedoor.errors import CannotComplete

PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
UNSIGNED_BYTE = 0x08
LIMIT = 2**32
"""Bytes of the largest file."""


def load(where: Where, name: str, classes: tuple[str, ...]) -> Splits:
    """The set in `ROOT/name/raw`, where `name` is also torchvision's class for it. Nothing is written there.

    Raises:
        CannotComplete: files are missing or damaged.
    """
    raw = where.folder(f"{name}/raw", [f"{part}*" for part in PARTS], lambda root: download(root, name))
    x, y, test_x, test_y = (read(raw / part) for part in PARTS)
    return Splits(ArrayDataset(x[:, None], y, classes, name), ArrayDataset(test_x[:, None], test_y, classes, name))


def read(path: Path) -> np.ndarray:
    """The array of an IDX file of unsigned bytes, from `path` or `path`.gz.

    Raises:
        CannotComplete: the file is not IDX, not of unsigned bytes, or not as long as its header says.
    """
    packed = path.with_name(f"{path.name}.gz")
    try:
        with opening.opened(path if path.exists() else packed, LIMIT) as file:
            size = os.fstat(file.fileno()).st_size
            return _array(path, file, size) if path.exists() else _unpacked(path, file, size)
    except (OSError, EOFError, zlib.error) as error:
        raise CannotComplete(f"cannot read {path}[.gz]: {error}; delete it and fetch it again") from error


def _unpacked(path: Path, file: BinaryIO, size: int) -> np.ndarray:
    with gzip.GzipFile(fileobj=file) as unpacked:
        return _array(path, unpacked, opening.RATIO * size + opening.SLACK)


def _array(path: Path, file: BinaryIO | gzip.GzipFile, most: int) -> np.ndarray:
    """The array of an open file, of which `most` bytes may come; its header says how many do."""
    start = file.read(4)
    rank = start[3] if start[:3] == bytes([0, 0, UNSIGNED_BYTE]) and len(start) == 4 else 0
    sides = file.read(4 * rank)
    shape = tuple(int.from_bytes(sides[k : k + 4], "big") for k in range(0, len(sides), 4))
    expected = math.prod(shape)
    # One byte more, to see whether it ends there; never more than the header says, however much there is.
    content = file.read(expected + 1) if rank and expected <= most else b""
    if rank == 0 or len(content) != expected:
        raise CannotComplete(f"{path}[.gz] is damaged: its header promises {shape or 'no IDX file of unsigned bytes'}, "
                             f"and other than {expected:,} bytes follow; delete it and fetch it again")
    return np.frombuffer(bytearray(content), dtype=np.uint8).reshape(shape)
