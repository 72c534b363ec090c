"""States of models, optimisers and objectives as safetensors: nothing that was written runs code when it is read.

Whoever is handed `Checkpoints` or a `Shelf` can keep and find states by name, and is not told where they lie: beside
them lies what a defence must not see.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sidedoor.core.files import drop_checkpoints, locked, replacing, write_json
from sidedoor.errors import CannotComplete, ConfigError

Lock = Callable[[Path], contextlib.AbstractContextManager[object]]
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_CHECKSUM = "sha256"
"""The tensor that holds the checksum; names of others have a "#"."""


class Checkpoints:
    """States by name in one folder."""

    def __init__(self, folder: Path):
        # A closure rather than an attribute, so that the folder is not handed on with the states.
        self._file: Callable[[str], Path] = lambda name: folder / f"phase-{name.replace('/', '--')}.safetensors"

    def load(self, name: str) -> dict[str, Any] | None:
        """The state kept under a name, or None.

        Raises:
            CannotComplete: it is damaged.
        """
        file = self._file(name)
        return load_state(file) if file.exists() else None

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Keep a state, replacing an older one of the same name."""
        save_state(self._file(name), state)


class Shelf:
    """Trained networks that many runs share, by name, each in a folder of its own.

    Args:
        folder: of all of them.
        prefix: of the names of folders: whoever has one prefix does not get at the networks of another.
        lock: holds the lock of a path.
    """

    def __init__(self, folder: Path, prefix: str = "", lock: Lock = locked):
        def place(name: str) -> Path:
            if not _NAME.fullmatch(name):
                raise ConfigError(f"the network {name!r} of the shelf asked for; expected letters, digits, _ and -")
            return folder / (prefix + name)

        self._folder: Callable[[str], Path] = place
        self._lock = lock

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Hold the lock of a name, among all processes that share the folder."""
        with self._lock(self._folder(name) / "lock"):
            yield

    def checkpoints(self, name: str) -> Checkpoints:
        """Where the training of a network keeps its phases."""
        return Checkpoints(self._folder(name))

    def load(self, name: str) -> dict[str, Any] | None:
        """The state of a network, or None."""
        file = self._folder(name) / "model.safetensors"
        return load_state(file, "model")["model"] if file.exists() else None

    def save(self, name: str, state: dict[str, Tensor], key: dict[str, Any]) -> None:
        """Keep the state of a finished network with what it was made from, and drop its phases."""
        folder = self._folder(name)
        write_json(folder / "key.json", key)
        save_state(folder / "model.safetensors", {"model": state})
        drop_checkpoints(folder)


def save_state(path: Path, state: dict[Any, Any]) -> None:
    """Write a tree of dicts, lists, tensors and JSON values as one safetensors file, its structure in the header.

    The checksum of all of it is one more tensor: safetensors writes several entries of metadata in any order, and equal
    states should be equal files.
    """
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_flatten(state, "", tensors))
    tensors[_CHECKSUM] = _checksum(structure, tensors)
    with replacing(path) as temporary:
        save_file(tensors, str(temporary), metadata={"structure": structure})


def load_state(path: Path, *names: str) -> dict[Any, Any]:
    """Read what `save_state` wrote. Files of earlier versions, which have no checksum, are read unchecked.

    Args:
        names: keys that it must have.

    Raises:
        CannotComplete: the file is missing, damaged or not written by `save_state`.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            structure = (file.metadata() or {})["structure"]
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        kept = tensors.pop(_CHECKSUM, None)
        if kept is not None and not torch.equal(kept, _checksum(structure, tensors)):
            raise ValueError("its content is not what was written, by its checksum")
        state = _restore(json.loads(structure), tensors)
        if missing := [name for name in names if name not in state]:
            raise ValueError(f"it has no {' and no '.join(missing)}")
        return dict(state)
    # What of another tree than a state: no pairs, a tensor that is not there, no tables.
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CannotComplete(f"cannot read the state in {path}: {error}; delete the file to start it afresh") from error


def _checksum(structure: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """The SHA-256 of a state as 32 bytes: of its structure and the bytes of its tensors, whose types and shapes too."""
    found = hashlib.sha256(structure.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return torch.frombuffer(bytearray(found.digest()), dtype=torch.uint8)


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        # A clone: safetensors refuses tensors that share memory.
        # The number keeps keys apart that read the same, such as 1 and "1".
        name = f"{path}#{len(tensors)}"
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _flatten(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_flatten(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]}
    return {"value": value}


def _restore(structure: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, value),) = structure.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: _restore(item, tensors) for key, item in value}
    if kind == "list":
        return [_restore(item, tensors) for item in value]
    return value


def load_weights(module: torch.nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load a state dict, naming what does not fit.

    Raises:
        CannotComplete: keys or shapes differ from the module's.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        found = differing(module.state_dict(), state) or str(error).partition("\n")[0]
        raise CannotComplete(f"{what} does not fit the network: {found}") from error


def differing(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """In one line, the first tensors that differ by name or shape, and the names that are given; empty if none do."""
    shapes = [f"{name!r} has the shape {tuple(given[name].shape)}, expected {tuple(tensor.shape)}"
              for name, tensor in expected.items() if name in given and tensor.shape != given[name].shape]
    missing = [f"{name!r} is missing" for name in expected if name not in given]
    more = [f"{name[:80]!r} is unknown" for name in given if name not in expected]
    first = [found[0] for found in (missing, more, shapes) if found]
    names = ", ".join(repr(name[:80]) for name in list(given)[:4]) + (", ..." if len(given) > 4 else "")
    return f"{'; '.join(first)}; it has {len(given)} tensors: {names}" if first else ""
