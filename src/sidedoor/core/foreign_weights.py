"""Weights files of unknown origin, read without running code from them.

What a file is, its content says, not its name: safetensors, or what `torch.save` writes. The file is copied while it is
hashed, and the copy is parsed, so that what was hashed is what is used.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from sidedoor.core import _convert_weights, opening
from sidedoor.errors import CannotComplete

log = logging.getLogger("sidedoor")

LIMIT = 16 * 2**30
"""Bytes of the largest file that is read."""
NESTED = ("state_dict", "model_state_dict", "model", "net", "netC", "ema", "state_dict_ema", "model_ema", "params",
          "params_ema", "module")
"""Keys under which training scripts keep weights."""
WRAPPERS = ("module.", "_orig_mod.")
"""What `DataParallel` and `torch.compile` put before the names of a network's tensors."""
_HEADER = 2**24
_SECONDS, _BYTES_A_SECOND = 20, 2**25
_WAIT = 10
"""How much longer than its time on the processor the conversion may take."""
_CONVERT = Path(_convert_weights.__file__)
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))

Table = dict[str, Tensor]
Keys = tuple[str, ...]


def read_weights(path: Path, key: str = "", sha256: str | None = None) -> Table:
    """The tensors of a weights file of unknown origin, without running code from it.

    Pickled files are read by `torch.load(weights_only=True)` in a process of its own that is limited in memory and
    time. The prefixes that wrappers give to names ("module.", "_orig_mod.") are taken off.

    Args:
        key: the key of the file under which the weights are, or several joined by dots; empty to look for one of
            `NESTED`, or for the only one that leads to a table of tensors.
        sha256: of the file, where it is known.

    Raises:
        CannotComplete: no such file, another one than expected, damaged, more than weights, or several tables.
    """
    with tempfile.TemporaryDirectory(prefix="sidedoor-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder) / "weights"
        try:
            actual = opening.copied(path, copy, LIMIT)
        except FileNotFoundError as error:
            raise CannotComplete(f"no weights at {path}") from error
        except OSError as error:
            raise CannotComplete(f"the weights {path} cannot be read: {error}") from error
        if sha256 not in (None, actual):
            raise CannotComplete(f"{path} has the sha256 {actual}, expected {sha256}")
        try:
            content = _content(copy)
            taken = _chosen(content, key)
            if taken:
                log.info("%s: the weights under %s are taken", path, ".".join(taken))
            return unprefixed(content.table(taken), WRAPPERS)
        except _Refused as refused:
            kind = UnsafeFile if isinstance(refused, _Unsafe) else CannotComplete
            raise kind(f"{path} is refused: {refused}") from refused


def unprefixed(table: Mapping[str, Tensor], prefixes: Sequence[str]) -> Table:
    """A table without the prefixes that all of its names share, however often and in whatever order they come."""
    found = dict(table)
    while prefix := next((p for p in prefixes if found and all(name.startswith(p) for name in found)), None):
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def identify(path: Path) -> str:
    """The SHA-256 of a weights file, once its first bytes are those of one.

    Raises:
        CannotComplete: no such file, or no weights.
    """
    try:
        actual = opening.digest_once(path, LIMIT)
        _kind(path)
    except FileNotFoundError as error:
        raise CannotComplete(f"no weights at {path}") from error
    except OSError as error:
        raise CannotComplete(f"the weights {path} cannot be read: {error}") from error
    except _Refused as refused:
        raise CannotComplete(f"{path} is refused: {refused}") from refused
    return actual


class UnsafeFile(CannotComplete):
    """A file that asks for code to be run when it is loaded; none was."""


class _Refused(Exception):
    """Why a file is not used, without its name."""


class _Unsafe(_Refused):
    """It asks for code to be run."""


class _Content(NamedTuple):
    """The tables of tensors of a file: which tensor of a safetensors file stands for each of their names.

    Args:
        keys: of the file, to name.
    """

    file: Path
    tables: dict[Keys, dict[str, str]]
    keys: Sequence[str]

    def table(self, path: Keys) -> Table:
        with _safetensors(self.file) as file:
            return {name: file.get_tensor(stored) for name, stored in self.tables[path].items()}


def _content(file: Path) -> _Content:
    if _kind(file) == "safetensors":
        return _indexed(file)
    target = file.with_name("converted")
    seconds = _SECONDS + file.stat().st_size // _BYTES_A_SECOND
    command = [sys.executable, "-I", str(_CONVERT), str(file), str(target), str(seconds)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False,
                              timeout=_WAIT * seconds, stdin=subprocess.DEVNULL, env=_environment())
    except subprocess.TimeoutExpired as error:
        raise _Refused(f"it could not be read in {_WAIT * seconds} s") from error
    if done.returncode < 0:
        raise _Refused(f"it takes more than {seconds} s to read, or ends the process that reads it")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        if done.returncode == _convert_weights.UNSAFE:
            raise _Unsafe(f"{reason[:300]}; nothing of it was run")
        raise _Refused(f"{reason[:300]}; only files that hold nothing but weights are read")
    return _indexed(target)


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("SYSTEMROOT", "TEMP", "TMP") if name in os.environ}
    return kept | {"PATH": os.defpath, "OMP_NUM_THREADS": "1"}


def _kind(path: Path) -> str:
    """"safetensors" or "pickle", by the first bytes of a file."""
    with opening.opened(path, LIMIT) as file:
        head = file.read(256)
        size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length <= size - 8:
        if length > _HEADER:
            raise _Refused(f"its header has {length:,} bytes; at most {_HEADER:,} are read")
        return "safetensors"
    if head.startswith((b"PK\3\4", *_PICKLES)):
        return "pickle"
    raise _Refused(f"{_other(head)}; expected safetensors, or what torch.save writes")


def _other(head: bytes) -> str:
    """What a file is that has no weights."""
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page: its download failed"
    if text.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`"
    if not head:
        return "it is empty"
    return "it is no file of weights"


@contextmanager
def _safetensors(file: Path) -> Iterator[Any]:
    """A safetensors file, whatever is wrong with it said as `_Refused`."""
    try:
        with safe_open(str(file), framework="pt") as found:
            yield found
    except (OSError, SafetensorError, ValueError) as error:
        raise _Refused(f"it is no readable safetensors file ({error})") from error


def _indexed(file: Path) -> _Content:
    with _safetensors(file) as opened:
        names, about = list(opened.keys()), opened.metadata() or {}
    if len(names) > _convert_weights.TENSORS:
        raise _Refused(f"it holds {len(names):,} tensors; at most {_convert_weights.TENSORS:,} are read")
    try:
        if "structure" in about:
            index = list(_structured(json.loads(about["structure"]), (), set(names)))
        elif file.name == "converted":
            index = [((*path, name), str(k)) for k, (*path, name) in enumerate(json.loads(about["index"]))]
        else:
            index = [((name,), name) for name in names]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _Refused(f"its table of contents is damaged ({type(error).__name__})") from error
    if len({stored for _, stored in index}) < len(index):
        raise _Refused("its table of contents names a tensor twice")
    tables: dict[Keys, dict[str, str]] = {}
    for (*path, name), stored in index:
        tables.setdefault(tuple(path), {})[name] = stored
    keys = json.loads(about["keys"]) if file.name == "converted" else list(dict.fromkeys(path[0] for path, _ in index))
    return _Content(file, tables, keys)


def _structured(node: Any, path: Keys, known: set[str]) -> Iterator[tuple[Keys, str]]:
    """(keys that lead to it, tensor) of each tensor of a state that sidedoor wrote (`core/checkpoint.py`)."""
    ((kind, value),) = node.items()
    if kind == "tensor" and path and value in known:
        yield path, value
    if kind in ("dict", "list"):
        for key, item in value if kind == "dict" else enumerate(value):
            yield from _structured(item, (*path, str(key)), known)


def _chosen(content: _Content, key: str) -> Keys:
    """The keys that lead to the table of weights; none where the file is one."""
    if not content.tables:
        raise _Refused(f"it holds no table of tensors{_keys(content.keys)}")
    path: Keys = ()
    for wanted in _steps(content, key):
        path = (*path, wanted)
    while path not in content.tables:
        below = list(dict.fromkeys(p[len(path)] for p in content.tables if p[: len(path)] == path))
        found = [k for k in below if k in NESTED] or [k for k in below if (*path, k) in content.tables]
        if len(found) != 1:
            several = f"several keys lead to tensors: {_listed(found)}" if found else \
                f"no usual key leads to a table of tensors{_keys(below)}"
            raise _Refused(f"{several}; name one as weights_key")
        path = (*path, *found)
    return path


def _steps(content: _Content, key: str) -> Keys:
    """A key as given, by itself or in parts joined by dots."""
    for path in ((key,), tuple(key.split("."))) if key else ():
        if any(p[: len(path)] == path for p in content.tables):
            return path
    if key:
        raise _Refused(f"nothing under weights_key = {key!r} is a table of tensors{_keys(content.keys)}")
    return ()


def _keys(names: Iterable[str]) -> str:
    listed = _listed(names)
    return f"; its keys are {listed}" if listed else ""


def _listed(names: Iterable[str], most: int = 8) -> str:
    """The first few of many names, in one line."""
    listed = [repr(name if len(name) <= 60 else f"{name[:57]}...") for name in names]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
