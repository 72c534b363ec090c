"""Writing so that a kill at any moment leaves the old file or the new one, and reading JSON of unknown origin."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sidedoor.core import opening
from sidedoor.errors import CannotComplete

_TEMPORARY = ".tmp-"
_ABANDONED = 3600
"""Seconds after which a temporary file that nobody has written to is what a crash has left."""
_LIMIT = 2**26
"""Bytes of the largest JSON file."""
_DEPTH, _LARGEST = 64, 1e100
"""Nesting and magnitude of numbers that no file of the house comes near."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes `path` if the block succeeds: written, fsynced, renamed."""
    # Not `tempfile`, whose files only their owner may read; without a suffix, so that nobody takes it for a result.
    temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise CannotComplete(f"cannot write {path}: {error}") from error
    finally:
        with contextlib.suppress(OSError):  # the error of the block says more
            temporary.unlink(missing_ok=True)


def abandoned(folder: Path) -> list[Path]:
    """Temporary files of `replacing` in a folder whose writers must have died; none where there is no folder."""
    before = time.time() - _ABANDONED
    return [file for file in sorted(folder.glob(f"{_TEMPORARY}*"))
            if file.is_file() and not file.is_symlink() and file.stat().st_mtime < before]


@contextlib.contextmanager
def locked(path: Path, seconds: float = -1) -> Iterator[None]:
    """Alone on this file among all processes of the machine; the lock dies with its holder.

    Args:
        seconds: to wait for another holder; below 0 for ever.

    Raises:
        CannotComplete: the lock cannot be opened, which it is not through a link, or another process holds it.
    """
    lock = FileLock(path, timeout=seconds, mode=0o666)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise CannotComplete(f"another process holds the lock {path}; wait until it has ended") from error
    except OSError as error:
        raise CannotComplete(f"cannot lock {path}: {error}") from error
    try:
        yield
    finally:
        lock.release()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused, because other readers refuse them."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file, as `parsed`.

    Raises:
        OSError: it is missing, no regular file, or large beyond reason.
        ValueError: as `parsed`.
    """
    return parsed(opening.text(path, _LIMIT))


def parsed(text: str) -> Any:
    """JSON of unknown origin: numbers are finite and of a sane size, text can be written, and nesting has an end.

    Raises:
        ValueError: it is not JSON, or not of this kind.
    """
    try:
        value = json.loads(text, parse_constant=_refused)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _check(value, _DEPTH)
    return value


def _refused(name: str) -> None:
    raise ValueError(f"it has the number {name}, which is not JSON")


def _check(value: Any, depth: int) -> None:
    if depth == 0:
        raise ValueError(f"it is nested more than {_DEPTH} deep")
    if isinstance(value, dict):
        for name, item in value.items():
            _check(name, depth)
            _check(item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, depth - 1)
    elif isinstance(value, str):
        value.encode()  # half of a surrogate pair cannot be written anywhere
    elif isinstance(value, int | float) and not abs(value) <= _LARGEST:
        raise ValueError(f"it has a number beyond {_LARGEST:g}")


def checkpoints_in(folder: Path, *, plans: bool = True) -> list[Path]:
    """The files of checkpoints in a folder, by name.

    Args:
        plans: those of an attacker's plan too, which is made again for every cell of its model.
    """
    return [file for file in sorted(folder.glob("phase-*.safetensors"))
            if plans or not file.name.startswith("phase-plan--")]


def drop_checkpoints(folder: Path, *, plans: bool = True) -> None:
    """Delete the checkpoints in a folder, whose work is done; who tidies up the store may do so at the same time."""
    for file in checkpoints_in(folder, plans=plans):
        file.unlink(missing_ok=True)
