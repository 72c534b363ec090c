"""One folder of results that many processes may write to and that survives a kill at any moment.

DIR/results/<key>.json       one Record
DIR/artefacts/<key>/         arrays for the figures of a run (arrays.npz); a trained model (model.safetensors) and its
                             scores (measured.safetensors)
DIR/shelf/<key>/             a network that several attacks or tasks share, and what it was made from (key.json)
DIR/locks/<key>.lock         held while a model is trained, so that two processes do not train it twice
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sidedoor.bench.record import Record
from sidedoor.core.files import locked, replacing, write_json
from sidedoor.errors import CannotComplete


@dataclass(frozen=True)
class Store:
    """Results and artefacts in one folder."""

    root: Path

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
        folder = self.root / "results"
        if not folder.is_dir():
            raise CannotComplete(f"no results in {self.root}: expected {folder}; run `sidedoor run` or `sweep` first")
        return [_read(path) for path in sorted(folder.glob("*.json")) if not path.name.startswith(".")]

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

    def put_arrays(self, key: str, arrays: dict[str, np.ndarray]) -> None:
        """Keep the arrays that the figures of a run need."""
        with replacing(self.folder(key) / "arrays.npz") as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    def arrays(self, key: str) -> dict[str, np.ndarray]:
        """The arrays of a run; empty if there are none."""
        path = self.folder(key) / "arrays.npz"
        if not path.exists():
            return {}
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Alone on this key among all processes of the machine; the lock dies with its holder."""
        with locked(self.root / "locks" / f"{key}.lock"):
            yield

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
        """Files that no record needs: artefacts of unknown keys, checkpoints of finished models, temporary files."""
        records = self.records() if (self.root / "results").is_dir() else []
        needed = {key for r in records for key in (r.key, r.planted, r.clean_key, *_references(r)) if key}
        folders = [p for p in _children(self.root / "artefacts") if p.name not in needed]
        kept = [p for p in _children(self.root / "artefacts") if p.name in needed]
        checkpoints = [c for p in kept if self.model(p.name).exists() for c in sorted(p.glob("phase-*"))]
        temporary = [p for p in sorted(self.root.rglob(".tmp-*")) if not any(f in p.parents for f in folders)]
        return folders + checkpoints + temporary

    def remove(self, paths: list[Path]) -> int:
        """Delete what `unused` named; the bytes that were freed."""
        freed = sum(size_of(path) for path in paths)
        for path in paths:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        return freed


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    return sum(os.stat(file).st_size for file in files)


def _references(record: Record) -> tuple[str, ...]:
    """Keys of the clean models that an audit was calibrated with."""
    return record.audit.models if record.audit else ()


def _children(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def _read(path: Path) -> Record:
    try:
        return Record.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, CannotComplete) as error:
        raise CannotComplete(f"cannot read the record {path}: {error}; delete it to run its cell again") from error


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
