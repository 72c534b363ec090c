"""The pickled batches of CIFAR-10 and CIFAR-100, read by an unpickler that builds byte arrays and nothing else.

A pickle is a program. These files need four names, each of which is replaced by a stand-in that only stores its
arguments; any other name is refused before it runs. What the program would build is counted beforehand: a few hundred
bytes can ask for tuples in tuples that take years to compare, or for a table as large as the memory.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sidedoor.core import opening
from sidedoor.data.base import ArrayDataset, Splits
from sidedoor.data.root import Where, download
from sidedoor.errors import CannotComplete

LIMIT = 2**28
"""Bytes of the largest file."""
TUPLES = 20
"""How often a file, which has one array, may use tuples again."""
PLAIN = frozenset({"EMPTY_LIST", "EMPTY_DICT", "GLOBAL", "STACK_GLOBAL", "REDUCE", "STRING", "BINSTRING", "UNICODE",
                   "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"})
"""What makes values that refer to no others when they are made."""


class Layout(NamedTuple):
    """How one of the two sets is stored: torchvision's class, the folder, the files, and the keys inside them."""

    name: str
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    names: str


def load(where: Where, layout: Layout) -> Splits:
    """The set in `ROOT/layout.folder`.

    Raises:
        CannotComplete: files are missing, damaged, or hold anything other than byte arrays.
    """
    needs = (*layout.train, layout.test, layout.meta)
    folder = where.folder(layout.folder, needs, lambda root: download(root, layout.name))
    classes = tuple(map(_text, _field(folder / layout.meta, read(folder / layout.meta), layout.names, list)))
    parts = [_batch(folder / file, layout.labels) for file in (*layout.train, layout.test)]
    images, labels = np.concatenate([x for x, _ in parts[:-1]]), [label for _, y in parts[:-1] for label in y]
    return Splits(ArrayDataset(images, labels, classes, layout.name),
                  ArrayDataset(parts[-1][0].copy(), parts[-1][1], classes, layout.name))


def _batch(path: Path, key: str) -> tuple[np.ndarray, list[int]]:
    """(images (n, 3, 32, 32), labels) of one file."""
    content = read(path)
    images = _field(path, content, "data", _Array).pixels(path)
    labels = _field(path, content, key, list)
    if len(images) != len(labels) or not all(isinstance(label, int) for label in labels):
        raise CannotComplete(f"{path} is damaged: {len(images)} images, {len(labels)} labels; fetch it again")
    return images, labels


def _field(path: Path, content: dict[str, Any], key: str, kind: type) -> Any:
    if not isinstance(content.get(key), kind):
        raise CannotComplete(f"{path} has no {key!r} as a CIFAR file does; fetch it again")
    return content[key]


def read(path: Path) -> dict[str, Any]:
    """The dictionary of a batch file; arrays come as stand-ins.

    Raises:
        CannotComplete: the file is damaged, or asks for a name that a CIFAR batch does not need.
    """
    try:
        data = opening.read(path, LIMIT)
        _check(data)
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except opening.Unopenable as error:
        raise CannotComplete(f"{path} cannot be read: {error}") from error
    except CannotComplete as error:
        raise CannotComplete(f"{path} {error}") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise CannotComplete(f"{path} is damaged: {type(error).__name__}: {error}; fetch it again") from error
    if not isinstance(content, dict):
        raise CannotComplete(f"{path} holds no dictionary as a CIFAR file does; fetch it again")
    return {_text(key): value for key, value in content.items() if isinstance(key, str | bytes)}


def _check(data: bytes) -> None:
    """Refuse a pickle that fills the memory with its numbers of things, or uses tuples again and again.

    Two references to one tuple in the next, and so on, are few bytes, but more to compare than there is time.
    """
    kept: set[int] = set()
    before, memos, again = "", 0, 0
    for code, argument, _ in pickletools.genops(data):
        if "PUT" in code.name or code.name == "MEMOIZE":
            number = memos if code.name == "MEMOIZE" else int(argument or 0)
            memos += 1
            again += TUPLES * (number > len(data))
            kept |= set() if before in PLAIN else {number}
        elif "GET" in code.name:
            again += int(argument or 0) in kept
        again += code.name == "DUP"
        before = code.name
        if again >= TUPLES:
            raise CannotComplete("builds what a CIFAR file does not have, and nothing of it was built; fetch it again")


def _text(value: Any) -> str:
    """A name, as bytes of Python 2 or as text."""
    if not isinstance(value, str | bytes):
        raise CannotComplete("has something else where a CIFAR file has text; fetch it again")
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


class _Array:
    """The shape and content of a pickled array."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def pixels(self, path: Path) -> np.ndarray:
        """(n, 3, 32, 32) from rows of 3,072 bytes: all red, then green, then blue."""
        match self.state:
            case (_, (int(n), 3072), _Type(code="u1"), False, bytes(raw)) if len(raw) == n * 3072:
                return np.frombuffer(raw, dtype=np.uint8).reshape(n, 3, 32, 32)
        raise CannotComplete(f"{path} is damaged: its data are not rows of 3,072 bytes; fetch it again")


class _Type:
    """The name of a pickled number type."""

    def __init__(self, code: Any, *_: Any):
        self.code = _text(code)

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like; one byte has none."""


def _array(*_: Any) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 spells bytes in the pickle protocol of Python 2."""
    return text.encode("latin1")


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy._core.multiarray", "_reconstruct"): _array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise CannotComplete(f"asks to load {module}.{name}, which a CIFAR file does not need: it may be made to "
                                 "run code, and nothing of it was run; delete it and fetch it again")
        return _ALLOWED[module, name]
