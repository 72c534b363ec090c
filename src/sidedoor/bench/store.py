"""One folder of results that many processes may write to and that survives a kill at any moment.

DIR/results/<key>.json       one Record
DIR/artefacts/<key>/         arrays for the figures of a run (arrays.npz); a trained model (model.safetensors) and its
                             scores (measured.safetensors)
DIR/shelf/<key>/             a network that several attacks or tasks share, and what it was made from (key.json);
                             NAME.made says that those that certain cells share are there
DIR/locks/<key>.lock         held while a model is trained, so that two processes do not train it twice;
                             <key>-cell.lock while a cell is run, clean.lock while files are removed; NAME.lease
                             instead, where several machines share the folder
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from sidedoor.bench.record import Record
from sidedoor.bench.schema import fit
from sidedoor.core import arrays
from sidedoor.core.files import abandoned, checkpoints_in, locked, read_json, replacing, write_json
from sidedoor.core.leases import SUFFIX, held, leased, pause
from sidedoor.errors import CannotComplete, ConfigError

log = logging.getLogger("sidedoor")

History = dict[str, list[dict[str, float | None]]]
"""Epochs of each phase of training: epoch, loss, lr, seconds, ..."""
Locks = Literal["flock", "lease"]
"""How processes keep out of each other's way: locks of the operating system, which hold within one machine and end with
their holder, or leases, which hold among all machines that share the folder."""
_KEY = re.compile(r"[0-9a-f]{16}")
_CLEAN = "clean"
"""The name of the lock that is held while files are removed."""
_FORMS = {
    "class_names": ("U", "k"), "y": ("iu", "n"), "clean": ("f", "n"), "attack": ("f", "dn"),
    "undefended_clean": ("f", "n"), "undefended_attack": ("f", "en"), "filter_score": ("f", "t"),
    "filter_truth": ("f", "t"), "suspicious": ("f", "p"), "worked": ("b", "p"), "innocent": ("f", "q"),
    "calibration": ("f", "r"), "audit_per_class": ("f", "s"), "grid_clean": ("u", "gchw"),
    "grid_stamped": ("u", "gchw"), "grid_label": ("iu", "g"), "grid_door": ("iu", "g"), "images_truth": ("u", "iABC"),
    "images_input": ("u", "iDEF"), "images_stamped": ("u", "iDEF"), "images_output": ("u", "iGHJ"),
    "strength_curve": ("f", "zv"), "images_triggered": ("u", "iKLM"), "images_target": ("u", "iNOP"),
    "strip_frames": ("u", "QRSTU"), "strip_boxes": ("f", "QRVW"), "strip_places": ("iu", "R"),
}
"""Of arrays that reports draw: kinds of numbers, and axes, which have one length wherever they have one letter."""
_NEEDS = {"suspicious": "innocent", "filter_score": "filter_truth", "images_stamped": "images_input",
          "strip_frames": "strip_boxes", "strip_boxes": "strip_places"}
"""Arrays that are drawn with another one."""
_LARGEST = 1e100
_T = TypeVar("_T")
_D = TypeVar("_D")


@dataclass(frozen=True)
class Store:
    """Results and artefacts in one folder.

    Args:
        root: the folder; text is taken for its path.
        left_out: where `records`, `arrays` and `history` list what is damaged and leave it out; None: they raise.
        locks: the same for all processes that write to the folder.
    """

    root: Path
    left_out: list[str] | None = field(default=None, compare=False)
    locks: Locks = "flock"

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))

    def lenient(self) -> Store:
        """The same folder for a report, which goes on without what is damaged, and says so."""
        return replace(self, left_out=[])

    def record(self, key: str) -> Record | None:
        """The record of a key, or None."""
        path = self.root / "results" / f"{key}.json"
        return _read(path) if path.exists() else None

    def put(self, record: Record) -> None:
        """Keep a record, replacing an older one of the same key."""
        write_json(self.root / "results" / f"{record.key}.json", record.to_json())

    def records(self) -> list[Record]:
        """All records, by key.

        Raises:
            CannotComplete: the folder holds no results, or a file that is no record.
        """
        found = (self._or_left_out(functools.partial(_read, path), None) for path in self._files())
        return [record for record in found if record is not None]

    def _or_left_out(self, read: Callable[[], _T], otherwise: _D) -> _T | _D:
        try:
            return read()
        except CannotComplete as error:
            if self.left_out is None:
                raise
            if str(error) not in self.left_out:
                self.left_out.append(str(error))
                log.warning("left out: %s", error)
            return otherwise

    def _files(self) -> list[Path]:
        """Of records."""
        folder = self.root / "results"
        if not folder.is_dir():
            raise CannotComplete(f"no results in {self.root}: expected {folder}; run `sidedoor run` or `sweep` first")
        return [path for path in sorted(folder.glob("*.json")) if not path.name.startswith(".")]

    def folder(self, key: str) -> Path:
        """The folder of a key's artefacts; made when something is written."""
        return self.root / "artefacts" / key

    def model(self, key: str) -> Path:
        """The file of a trained model; there once the training is finished."""
        return self.folder(key) / "model.safetensors"

    @property
    def shelf(self) -> Path:
        """The folder of networks that cells share."""
        return self.root / "shelf"

    def mark(self, name: str) -> Path:
        """The empty file that says that certain networks of the shelf are there."""
        return self.shelf / f"{name}.made"

    def put_arrays(self, key: str, arrays: dict[str, np.ndarray]) -> None:
        """Keep the arrays that the figures of a run need."""
        with replacing(self.folder(key) / "arrays.npz") as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    def arrays(self, key: str) -> dict[str, np.ndarray]:
        """The arrays of a run; empty if there are none.

        Raises:
            CannotComplete: the file is damaged, or an array is not what runs write under its name.
        """
        return self._or_left_out(lambda: _arrays(self.folder(key) / "arrays.npz"), {})

    def history(self, key: str) -> History:
        """The epochs of each phase that a run has trained; empty if there are none.

        Raises:
            CannotComplete: the file is damaged.
        """
        return self._or_left_out(lambda: _history(self.folder(key) / "history.json"), {})

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Alone on this key among all processes of the machine, or of all machines; the lock dies with its holder."""
        with self.alone(self._lock(key)):
            # Whoever removes files holds the other one from before it asks who is running.
            if self.locks == "lease":  # each makes its own and then looks for the other's, so that one at least sees it
                pause(self._lock(_CLEAN))
            else:
                with locked(self._lock(_CLEAN)):
                    pass
            yield

    @property
    def alone(self) -> Callable[[Path], contextlib.AbstractContextManager[object]]:
        """What holds the lock of a path, by the kind of locks that the folder has; it knows nothing of the store."""
        return leased if self.locks == "lease" else locked

    def _lock(self, key: str) -> Path:
        return self.root / "locks" / f"{key}.lock"

    def compile(self) -> Path:
        """All records as one table, `DIR/results.parquet`, one row each, nested fields dotted.

        Evidence is in columns of its type, such as `evidence.separation.auroc`; a second one of a type has a number.

        Raises:
            CannotComplete: pyarrow is not installed.
        """
        try:
            import pyarrow as arrow
            from pyarrow import parquet
        except ImportError as error:
            raise CannotComplete("compiling to parquet needs pyarrow; install it with "
                                 "`pip install 'sidedoor[analysis]'`") from error
        rows = [_flat(_by_type(record.to_json())) for record in self.records()]
        columns = sorted({name for row in rows for name in row})
        table = arrow.table({name: _column([row.get(name) for row in rows]) for name in columns})
        path = self.root / "results.parquet"
        with replacing(path) as temporary:
            parquet.write_table(table, temporary)
        return path

    def unused(self) -> list[Path]:
        """Files that no record needs: artefacts of unknown keys, checkpoints of finished models and cells, and what
        was written when a process died.

        Raises:
            CannotComplete: this is no folder of results, or it has a record that cannot be read and thus may need any.
        """
        if not any((self.root / name).is_dir() for name in ("results", "locks")):
            raise CannotComplete(f"{self.root} is no folder of results: it has neither results nor locks")
        records = self.records() if (self.root / "results").is_dir() else []
        needed = {key for r in records for key in (r.key, r.planted, r.clean_key, *_references(r)) if key}
        folders = [p for p in _children(self.root / "artefacts") if p.name not in needed and _KEY.fullmatch(p.name)]
        kept = [p for p in _children(self.root / "artefacts") if p.name in needed]
        checkpoints = [file for folder in kept for file in self._outlived(folder, plans=True)]
        return folders + checkpoints + [file for file in self._abandoned() if file.parent not in folders]

    def remove_unused(self) -> tuple[list[Path], int]:
        """Delete what is unused, unless anything is being run; what that was, and its bytes.

        Raises:
            CannotComplete: as `unused`, or a cell is running, which may need what no record names yet.
        """
        with self.alone(self._lock(_CLEAN)):
            self._check_idle()
            unused = self.unused()
            freed = sum(size_of(path) for path in unused)
            for path in unused:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        return unused, freed

    def _check_idle(self) -> None:
        for lease in sorted((self.root / "locks").glob(f"*{SUFFIX}")):
            if lease.stem != _CLEAN and (holder := held(lease)):
                raise CannotComplete(f"something is running in {self.root}: {holder} holds the lease {lease}; wait "
                                     "until it has ended, or delete the file if it has died")
        for lock in sorted((self.root / "locks").glob("*.lock")):
            try:
                with contextlib.nullcontext() if lock == self._lock(_CLEAN) else locked(lock, seconds=0):
                    pass
            except CannotComplete as error:
                raise CannotComplete(f"something is running in {self.root}: {error}") from error

    def tidy(self) -> None:
        """Delete what a process that died left: files that it was writing, and checkpoints of what is finished."""
        folders = [*_children(self.root / "artefacts"), *_children(self.shelf)]
        outlived = [file for folder in folders for file in self._outlived(folder)]
        for file in [*self._abandoned(), *outlived]:
            file.unlink(missing_ok=True)

    def _outlived(self, folder: Path, *, plans: bool = False) -> list[Path]:
        """Checkpoints of a finished model or cell, in its folder.

        Args:
            plans: those of an attacker's plan too, which is made again for every cell of its model.
        """
        checkpoints = checkpoints_in(folder)
        if not checkpoints or self._finished(folder.name):
            return checkpoints
        return checkpoints_in(folder, plans=plans) if (folder / "model.safetensors").exists() else []

    def _finished(self, key: str) -> bool:
        """Whether there is the record of a finished cell; one that cannot be read is told of by whoever needs it."""
        with contextlib.suppress(CannotComplete):
            return (record := self.record(key)) is not None and record.finished
        return False

    def _abandoned(self) -> list[Path]:
        folders = [self.root, self.root / "results", *_children(self.root / "artefacts"), *_children(self.shelf)]
        return [file for folder in folders if not folder.is_symlink() for file in abandoned(folder)]


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; what links lead to is not counted."""
    files = [p for p in path.rglob("*") if not p.is_dir()] if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        return {}
    try:
        found = arrays.read(path)
        _check_forms(found)
    except (CannotComplete, ConfigError) as error:
        raise CannotComplete(f"{path} is damaged: {error}; delete it to report without its figures") from error
    return found


def _history(path: Path) -> History:
    if not path.exists():
        return {}
    try:
        phases = read_json(path)
        fit("history", phases, History)
        for name, epochs in phases.items():
            fit(f"history.{name}", [epoch.get("epoch") for epoch in epochs], list[float])
    except (OSError, ValueError) as error:
        raise CannotComplete(f"{path} is damaged: {error}; delete it to report without training curves") from error
    return {name: epochs for name, epochs in phases.items() if epochs}


def _check_forms(found: dict[str, np.ndarray]) -> None:
    """Fail unless the arrays that reports know have the form that they have in `_FORMS`."""
    if alone := [name for name, other in _NEEDS.items() if name in found and other not in found]:
        raise ConfigError(f"{alone[0]} is there without {_NEEDS[alone[0]]}")
    lengths: dict[str, int] = {}
    for name, array in found.items():
        if array.dtype.kind == "f" and (np.abs(array[np.isfinite(array)].astype(float)) > _LARGEST).any():
            raise ConfigError(f"{name} has numbers beyond {_LARGEST:g}")
        if name not in _FORMS:
            continue
        kinds, axes = _FORMS[name]
        fits = array.dtype.kind in kinds and array.ndim == len(axes) and (array.size > 0 or array.ndim < 3)
        if not fits or any(lengths.setdefault(axis, n) != n for axis, n in zip(axes, array.shape, strict=True)):
            raise ConfigError(f"{name} of type {array.dtype} and shape {array.shape} does not fit the other arrays")


def _references(record: Record) -> tuple[str, ...]:
    """Keys of the clean models that an audit was calibrated with."""
    return record.audit.models if record.audit else ()


def _children(folder: Path) -> list[Path]:
    """The folders in a folder; links are followed in neither."""
    there = folder.is_dir() and not folder.is_symlink()
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.is_symlink()) if there else []


def _read(path: Path) -> Record:
    try:
        record = Record.from_json(read_json(path))
        if record.key != path.stem:
            raise ValueError(f"it is the record of {record.key}, by its content")
    except (OSError, ValueError, CannotComplete) as error:
        raise CannotComplete(f"cannot read the record {path}: {error}; delete it to run its cell again") from error
    return record


def _by_type(record: dict[str, Any]) -> dict[str, Any]:
    """A record's table with evidence by its type instead of a list."""
    found: dict[str, Any] = {}
    for item in record["evidence"]:
        count = sum(name.partition("_")[0] == item["type"] for name in found)
        found[f"{item['type']}_{count + 1}" if count else item["type"]] = item
    return record | {"evidence": found}


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(item) if isinstance(item, list | tuple) else item
    return flat


def _column(values: list[Any]) -> list[Any]:
    """A column of one type: where rows differ in type (a parameter that is a number here, text there), all text."""
    given = [v for v in values if v is not None]
    kinds = {float if isinstance(v, int | float) and not isinstance(v, bool) else type(v) for v in given}
    return values if len(kinds) <= 1 else [v if v is None else str(v) for v in values]
