"""Files of unknown origin, opened in one way: regular files only, of a known and bounded size.

A pipe would wait for ever, a device never ends, and a sparse file or a packed one holds far more than it says.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from sidedoor.core import system
from sidedoor.errors import CannotComplete

CHUNK = 2**20
RATIO, SLACK = 100, 2**26
"""What is packed may be so many times as large as the file that holds it, and so many bytes."""
_IDENTIFIED = 16 * 2**30
_IDENTITIES: dict[str, str] = {}
"""Files whose content has entered the key of a result in this process."""
_SETTLED = 2.0
"""Seconds since it was touched after which a file's times say whether it is the same."""
DIRECTORY, ENTRIES = 2**24, 20_000
"""The most bytes and entries of an archive's directory."""


class Unopenable(OSError):
    """A file that is not read, and why."""


@contextmanager
def opened(path: str | os.PathLike[str], limit: int) -> Iterator[BinaryIO]:
    """A regular file of at most `limit` bytes, for reading.

    Raises:
        OSError: it is missing, a folder, pipe or device (or a link to one), larger, or sparse.
    """
    _check(path, os.stat(path), limit)  # before it is opened: opening alone does something to some devices
    with open(os.open(path, system.READING), "rb") as file:
        _check(path, os.fstat(file.fileno()), limit)  # and after: what a name stands for may change in between
        yield file


def _check(path: str | os.PathLike[str], found: os.stat_result, limit: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file but a pipe, socket or device"
        raise Unopenable(f"it is {kind}")
    if found.st_size > limit:
        raise Unopenable(f"it has {found.st_size:,} bytes; at most {limit:,} are read")
    blocks = getattr(found, "st_blocks", 0) * 512  # 0 where a file system does not say
    if blocks and not plausible(found.st_size, blocks):
        raise Unopenable(f"it is sparse: {blocks:,} bytes on the disk stand for {found.st_size:,}")


def plausible(unpacked: int, packed: int) -> bool:
    """Whether so many bytes may come from so few; real data are packed far less than bombs are."""
    return unpacked <= RATIO * packed + SLACK


def read(path: str | os.PathLike[str], limit: int) -> bytes:
    """The content of a file.

    Raises:
        OSError: as `opened`, or it changes while it is read.
    """
    with opened(path, limit) as file:
        content = b"".join(_chunks(file))
    if _IDENTITIES:
        _confirm(path, hashlib.sha256(content).hexdigest())
    return content


@functools.cache
def _first_seen(path: str) -> str:
    return digest(path, _IDENTIFIED)


def identified(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file whose content decides results; from then on this process reads that content or nothing.

    Raises:
        CannotComplete: it cannot be read.
    """
    try:
        found = _first_seen(os.path.realpath(path))
    except OSError as error:
        raise CannotComplete(f"{path} cannot be read: {error}") from error
    _IDENTITIES[os.path.realpath(path)] = found
    return found


def _confirm(path: str | os.PathLike[str], found: str) -> None:
    """Fail if a file was identified and has another content now."""
    if _IDENTITIES.get(os.path.realpath(path), found) != found:
        raise Unopenable("it was written to since its content was taken for the key of a result; run the command again")


def text(path: str | os.PathLike[str], limit: int) -> str:
    """The content of a text file in UTF-8, with or without a byte order mark.

    Raises:
        OSError: as `read`, or it is in another encoding.
    """
    try:
        return read(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unopenable(f"it is not text in UTF-8 ({error.reason} at byte {error.start:,})") from error


def digest(path: str | os.PathLike[str], limit: int) -> str:
    """The SHA-256 of a file's content.

    Raises:
        OSError: as `read`.
    """
    found = hashlib.sha256()
    with opened(path, limit) as file:
        for chunk in _chunks(file):
            found.update(chunk)
    return found.hexdigest()


def digest_once(path: str | os.PathLike[str], limit: int) -> str:
    """As `digest`, of a file that has not been touched for a while no more than once in a process: a grid names the
    same weights in each of its cells.
    """
    found = os.stat(path)
    settled = max(found.st_mtime, found.st_ctime) < time.time() - _SETTLED  # a clock may not tell two writes apart
    if not settled:
        return digest(path, limit)
    return _settled(os.path.realpath(path), limit, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@functools.lru_cache(maxsize=256)
def _settled(path: str, limit: int, *state: int) -> str:
    return digest(path, limit)


def copied(path: str | os.PathLike[str], target: Path, limit: int) -> str:
    """Copy a file and return the SHA-256 of the copy: what is parsed there is what was hashed.

    Raises:
        OSError: as `read`, or the copy cannot be written.
    """
    found = hashlib.sha256()
    with opened(path, limit) as file, open(target, "xb") as copy:
        for chunk in _chunks(file):
            found.update(chunk)
            copy.write(chunk)
    _confirm(path, found.hexdigest())
    return found.hexdigest()


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    """All of a file, which must be as long as it was when it was opened."""
    left = os.fstat(file.fileno()).st_size
    while chunk := file.read(min(CHUNK, left + 1)):
        left -= len(chunk)
        if left < 0:
            break
        yield chunk
    if left:
        raise Unopenable("it changes while it is read")


@contextmanager
def archive(file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """A zip archive whose directory is of a bounded size, with members that are stored or deflated.

    Raises:
        OSError, zipfile.BadZipFile: it is none, or one with too many members, or packed too tightly.
    """
    size = file.seek(0, os.SEEK_END)
    _check_directory(file, size)
    with zipfile.ZipFile(file) as found:
        for member in found.infolist():
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
                raise Unopenable(f"{member.filename!r} in it is encrypted, or neither stored nor deflated")
            if not plausible(member.file_size, size):
                raise Unopenable(f"{member.filename!r} in it has {member.file_size:,} bytes in a file of {size:,}")
        yield found


def _check_directory(file: BinaryIO, size: int) -> None:
    """Refuse a large directory before it is read into objects."""
    file.seek(max(0, size - 2**16 - 22))
    tail = file.read()
    start = tail.rfind(b"PK\5\6")
    end = tail[start : start + 22] if start >= 0 else b""
    if len(end) < 22:
        raise zipfile.BadZipFile("it is no zip archive")
    entries, length = (int.from_bytes(end[a:b], "little") for a, b in ((10, 12), (12, 16)))
    large = tail.rfind(b"PK\6\6", 0, start)
    if large >= 0:
        entries, length = (int.from_bytes(tail[large + a : large + a + 8], "little") for a in (32, 40))
    if entries > ENTRIES or length > DIRECTORY:
        raise Unopenable(f"it lists {entries:,} members; at most {ENTRIES:,} are read")
