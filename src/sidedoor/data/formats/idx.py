"""The IDX files of MNIST and its relatives, gzipped or not, read in place."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from sidedoor.data.base import ArrayDataset, Splits
from sidedoor.data.root import Where, download
from sidedoor.errors import CannotComplete

PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
UNSIGNED_BYTE = 0x08


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
        content = path.read_bytes() if path.is_file() else gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise CannotComplete(f"cannot read {path}[.gz]: {error}; delete it and fetch it again") from error
    rank = content[3] if content[:3] == bytes([0, 0, UNSIGNED_BYTE]) and len(content) > 3 else 0
    start = 4 + 4 * rank
    shape = tuple(int.from_bytes(content[k : k + 4], "big") for k in range(4, start, 4))
    if rank == 0 or len(content) != start + math.prod(shape):
        raise CannotComplete(f"{path}[.gz] is damaged: its header promises {shape or 'no IDX file of unsigned bytes'}, "
                             f"{max(len(content) - start, 0)} bytes follow; delete it and fetch it again")
    return np.frombuffer(bytearray(content), dtype=np.uint8, offset=start).reshape(shape)
