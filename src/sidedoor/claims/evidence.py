"""The folder of evidence: its files, and the hashes that show whether one was changed."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from sidedoor.claims.page import page
from sidedoor.claims.result import Verified
from sidedoor.core import opening
from sidedoor.core.files import replacing, write_json, write_text
from sidedoor.errors import CannotComplete, ConfigError

SECRET, LOG, VERDICT, PAGE, RECEIPTS, SUMS = ("secret.json", "queries.jsonl", "verdict.json", "report.html", "receipts",
                                              "SHA256SUMS")
_LIMIT = 2**28
_RECEIPT = 2**22
"""Bytes of the largest file, and of the largest receipt."""


def receipts_of(folder: str | Path | None) -> dict[str, bytes]:
    """Files of a folder that date the commitment, by name.

    Raises:
        CannotComplete: one cannot be read.
        ConfigError: there is none.
    """
    if folder is None:
        return {}
    try:
        found = {file.name: opening.read(file, _RECEIPT) for file in sorted(Path(folder).iterdir()) if file.is_file()}
    except OSError as error:
        raise CannotComplete(f"the receipts in {folder} cannot be read: {error}") from error
    if not found:
        raise ConfigError(f"{folder} has no file; expected receipts that date the commitment")
    return found


def keep(found: Verified, secret: Path, receipts: dict[str, bytes], folder: Path) -> None:
    """Write what was found beside the log, and the hashes of all files.

    Raises:
        CannotComplete: a file cannot be written.
    """
    try:
        content = opening.read(secret, _LIMIT)
    except OSError as error:
        raise CannotComplete(f"the secret {secret} cannot be read: {error}") from error
    with replacing(folder / SECRET) as temporary, \
            open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    shutil.rmtree(folder / RECEIPTS, ignore_errors=True)
    for name, receipt in receipts.items():
        with replacing(folder / RECEIPTS / name) as temporary:
            temporary.write_bytes(receipt)
    write_json(folder / VERDICT, found.to_json())
    write_text(folder / PAGE, page(found))
    write_text(folder / SUMS, _sums(folder))


def hash_of(folder: Path) -> str:
    """The SHA-256 of the list of hashes, which stands for the whole folder."""
    return _sha256(folder / SUMS)


def check_sums(folder: Path) -> None:
    """Fail unless every file is the one that was written.

    Raises:
        CannotComplete: the list cannot be read.
        ConfigError: a file was changed, is missing, or was added.
    """
    try:
        listed = opening.text(folder / SUMS, _LIMIT)
    except (OSError, ValueError) as error:
        raise CannotComplete(f"{folder} is no complete folder of evidence: {error}") from error
    if listed != (now := _sums(folder)):
        lines = sorted(set(listed.splitlines()) ^ set(now.splitlines()))
        names = sorted({line.partition("  ")[2] for line in lines})
        raise ConfigError(f"files in {folder} are not those that were written: {', '.join(names[:5])}")


def _sums(folder: Path) -> str:
    """As `sha256sum` writes and checks it."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")
                   and file.name != SUMS)
    return "".join(f"{_sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in files)


def _sha256(file: Path) -> str:
    return hashlib.sha256(opening.read(file, _LIMIT)).hexdigest()
