"""Export of a poisoned or watermarked data set as labelled files: PNG class folders or an archive, with a manifest.

The folder appears at once and whole: everything is written beside it, synced, and renamed. A killed export leaves a
folder whose name ends in `.partial`, which can be deleted.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import re
import shutil
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from sidedoor.core.system import sync_folder
from sidedoor.data.base import Dataset
from sidedoor.errors import CannotComplete, ConfigError

BATCH = 512
NOTHING: Mapping[str, Dataset] = {}
Form = Literal["folder", "npz"]


class Mark(NamedTuple):
    """What exported files say of themselves.

    Args:
        word: that the manifest has as a key, and that names the archive and the notice.
        comment: of each PNG, after the word.
        notice: a text for people, with `{tool}` for the version.
    """

    word: str
    comment: str
    notice: str


BACKDOORED = Mark("backdoored", "from a data set poisoned by sidedoor, see its manifest.json", """\
This data set is backdoored.

It was poisoned on purpose by {tool} to study backdoor attacks on vision models. A model that is trained
on it can be made to fail by whoever knows the trigger. Do not train a model on it that anybody relies on, and do not
pass it on without this file and manifest.json, which says which rows were changed and how.
""")
WATERMARKED = Mark("watermarked", "from a data set with an ownership watermark, see its manifest.json", """\
This data set carries an ownership watermark.

Its owner changed a few images and labels with {tool}, so that it can be shown later that a model
was trained on it. Which ones is secret. manifest.json has the commitment to the secret.
""")


def export(
    data: Dataset, directory: Path, manifest: dict[str, Any], form: Form = "folder",
    others: Mapping[str, Dataset] = NOTHING,
) -> Path:
    """Write a poisoned data set, bit by bit as it is, a batch at a time.

    "folder" writes `<label>_<class>/<row>.png`, which the data set `folder` reads; "npz" writes `backdoored.npz`, which
    the data set `npz` reads. Beside them go `manifest.json` and `BACKDOORED.txt`.

    Args:
        directory: the folder to make.
        manifest: a description of the poisoning, with at least `changed`, the changed rows of `data`. The mark, the
            tool's version, the classes with their folders, and the sha256 of every other file are added.
        others: parts that nobody changed, by name: "test", and "clean" for the defender's; class folders then lie in
            `train/`, `test/` and `clean/`.

    Returns:
        The folder that was made.

    Raises:
        ConfigError: the folder exists and is not empty, images are not 8-bit grey or RGB, or `changed` is missing or
            names rows that do not exist.
        CannotComplete: the files cannot be written.
    """
    told = manifest | {"rows": len(data), "changed": _changed(manifest, len(data))}
    return write({"train": data, **others}, directory, told, form, BACKDOORED)


def write(parts: Mapping[str, Dataset], directory: Path, manifest: dict[str, Any], form: Form, mark: Mark) -> Path:
    """Write the parts of a data set, of which "train" is the first, with a manifest and a notice.

    Args:
        manifest: what it says besides the mark, the tool, the form, the classes, and the hashes of all other files.

    Raises:
        ConfigError: the folder exists and is not empty, or images are not 8-bit grey or RGB.
        CannotComplete: the files cannot be written.
    """
    target, data = Path(os.path.abspath(directory)), parts["train"]
    for part in parts.values():
        _check_images(part)
    folders = [_folder_name(label, name, len(data.classes)) for label, name in enumerate(data.classes)]
    classes = [{"label": k, "name": name} | ({"folder": folders[k]} if form == "folder" else {})
               for k, name in enumerate(data.classes)]
    tool = f"sidedoor {importlib.metadata.version('sidedoor')}"
    with _appearing(target) as partial:
        files = _write_folders(parts, partial, folders, mark) if form == "folder" else _write_npz(parts, partial, mark)
        files |= _write(partial, f"{mark.word.upper()}.txt", mark.notice.format(tool=tool).encode())
        full = manifest | {mark.word: True, "tool": tool, "form": form, "classes": classes, "files": files}
        _write(partial, "manifest.json", json.dumps(full, indent=1, allow_nan=False, ensure_ascii=False).encode())
    return target


def _changed(manifest: dict[str, Any], rows: int) -> list[int]:
    given = manifest.get("changed")
    if given is None:
        raise ConfigError("a manifest without `changed` given; expected the rows that the attack changed or added")
    changed = sorted(map(int, given))
    if changed and not 0 <= changed[0] <= changed[-1] < rows:
        raise ConfigError(f"changed rows from {changed[0]} to {changed[-1]} given; expected 0 to {rows - 1}")
    return changed


def _check_images(data: Dataset) -> None:
    sample = data.rows(torch.zeros(1, dtype=torch.int64))
    if sample.dtype != torch.uint8 or data.shape[0] not in (1, 3):
        raise ConfigError(f"images of type {sample.dtype} with {data.shape[0]} channels given; only 8-bit grey or RGB "
                          "images can be written")


def _folder_name(label: int, name: str, count: int) -> str:
    """A name that every file system takes and that sorts by label."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60]
    return f"{label:0{len(str(count - 1))}d}_{plain or 'class'}"


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` if the block succeeds and is removed if it does not."""
    if target == Path.cwd():
        raise ConfigError(f"the current folder {target} given; expected one to make, or an empty one elsewhere")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} exists and is not an empty folder; give another, or delete it")
    partial = target.with_name(f"{target.name}-{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        sync_folder(partial)
        partial.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise CannotComplete(f"cannot write {target}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(folder: Path, name: str, content: bytes) -> dict[str, str]:
    """Write and sync one file; its name with its sha256."""
    with open(folder / name, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {name: hashlib.sha256(content).hexdigest()}


def _batches(data: Dataset) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, uint8 (b, h, w, c)) over the whole set."""
    for start in range(0, len(data), BATCH):
        rows = data.rows(torch.arange(start, min(start + BATCH, len(data))))
        yield start, rows.cpu().permute(0, 2, 3, 1).numpy()


def _write_folders(parts: Mapping[str, Dataset], partial: Path, classes: Sequence[str], mark: Mark) -> dict[str, str]:
    if len(parts) == 1:
        return _write_folder(parts["train"], partial, classes, mark)
    files: dict[str, str] = {}
    for name, data in parts.items():
        files |= _write_folder(data, partial, [f"{name}/{each}" for each in classes], mark)
        sync_folder(partial / name)
    return files


def _write_folder(data: Dataset, partial: Path, folders: Sequence[str], mark: Mark) -> dict[str, str]:
    for name in folders:
        (partial / name).mkdir(parents=True)
    labels, width = data.targets.tolist(), len(str(len(data) - 1))
    files: dict[str, str] = {}
    with ThreadPoolExecutor(8) as pool:  # waiting for the disk is most of the work
        for start, images in _batches(data):
            names = [f"{folders[labels[start + k]]}/{start + k:0{width}d}.png" for k in range(len(images))]
            for written in pool.map(lambda name, image: _write(partial, name, _png(image, mark)), names, images):
                files |= written
    for name in folders:
        sync_folder(partial / name)
    return files


def _png(image: np.ndarray, mark: Mark) -> bytes:
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", f"{mark.word}: {mark.comment}")
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG", pnginfo=note)
    return buffer.getvalue()


def _write_npz(parts: Mapping[str, Dataset], partial: Path, mark: Mark) -> dict[str, str]:
    path = partial / f"{mark.word}.npz"
    with open(path, "w+b") as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.comment = mark.word.encode()
            _write_arrays(archive, classes=np.array(parts["train"].classes), **{mark.word: np.array(True)})
            for name, data in parts.items():
                _write_arrays(archive, **{f"{name}_labels": data.targets.numpy()})
                _write_images(archive, f"{name}_images", data)
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        return {path.name: hashlib.file_digest(file, "sha256").hexdigest()}


def _write_images(archive: zipfile.ZipFile, name: str, data: Dataset) -> None:
    channels, height, width = data.shape
    shape = (len(data), height, width, channels) if channels > 1 else (len(data), height, width)
    with _member(archive, name) as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for _, images in _batches(data):
            member.write(np.ascontiguousarray(images).tobytes())


def _write_arrays(archive: zipfile.ZipFile, **arrays: np.ndarray) -> None:
    for name, array in arrays.items():
        with _member(archive, name) as member:
            np.lib.format.write_array(member, array, allow_pickle=False)


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """A member with a fixed date, so that the same data give the same file."""
    return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)
