"""What a corpus is made of: inputs that are made when they are needed, and how each is read.

A module of this folder with a function `items()` is a part of the corpus; `python -m tests.corpus` runs all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MARKER = "executed"
"""The file that code in a hostile input would write beside it."""
MEMORY = 500 * 2**20
"""Bytes that reading an input may take besides three times its size, beyond what reading a small one does."""


@dataclass(frozen=True)
class Item:
    """One input.

    Args:
        kind: "weights", "image", "folder", ...; counts are by kind.
        name: unique in its kind.
        make: writes the input below an empty folder and returns what is to be read.
        read: reads it as the house does; may refuse it by the house's own errors.
        good: whether it must be read; others may be read or refused.
        memory: bytes that reading may take besides three times the input's size.
    """

    kind: str
    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    good: bool = False
    memory: int = MEMORY
