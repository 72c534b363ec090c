"""NumPy arrays in archives of unknown origin: never unpickled, and never larger than what is there."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from sidedoor.core import opening
from sidedoor.errors import CannotComplete, ConfigError

_LIMIT = 2**31
DAMAGE = (OSError, EOFError, zipfile.BadZipFile, zlib.error, ValueError, RuntimeError, OverflowError)
"""What reading a damaged archive raises; the last four are what `zipfile` raises for damaged directories."""


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an archive.

    Raises:
        CannotComplete: it is no archive of plain arrays.
    """
    try:
        with opening.opened(path, _LIMIT) as stream, opening.archive(stream) as archive:
            return {name.removesuffix(".npy"): _array(archive, name.removesuffix(".npy"))
                    for name in archive.namelist()}
    except (*DAMAGE, KeyError, MemoryError) as error:
        raise CannotComplete(f"cannot read the arrays in {path}: {error}") from error


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        shape, fortran, dtype = header(file, name)
        check_length(archive, name, shape, dtype)
        raw, size = file.read(), math.prod(shape)
        if len(raw) < size * dtype.itemsize:
            raise EOFError(f"{name} ends before its {size:,} numbers do")
        return np.frombuffer(raw, dtype, size).reshape(shape, order="F" if fortran else "C")


def header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, in Fortran order, type of the numbers) as an array begins with them.

    Raises:
        ConfigError: it is no plain array.
    """
    try:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
    except Exception as error:  # NumPy reads it as Python source, and damaged source can raise anything
        raise ConfigError(f"{name} is not a plain array: {error}") from error
    if dtype.hasobject or any(side < 0 for side in shape):
        raise ConfigError(f"{name} is not a plain array: it holds objects, or has a negative shape")
    return shape, fortran, dtype


def check_length(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Refuse a header that declares more than there is, before anything is made of that size.

    Raises:
        EOFError: it does.
    """
    there, declared = archive.getinfo(f"{name}.npy").file_size, math.prod(shape) * dtype.itemsize
    if not declared < there <= declared + 2**17:
        raise EOFError(f"{name} is declared as {shape} of type {dtype}, {declared:,} bytes, but has {there:,}")
