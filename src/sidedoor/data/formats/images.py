"""Image files: decoding that withstands damaged and hostile files, and folders of files decoded lazily.

PNG, JPEG, BMP, PPM (with PBM and PGM) and WEBP are read, by their content and not their suffix. Pixels are taken
as stored: EXIF orientation is not applied, embedded colour profiles are not, transparency is dropped, and of an
animation the first frame counts. Images of more than 8 bits a channel are refused rather than clipped.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from sidedoor.data.base import MEMORY_LIMIT, ArrayDataset, Dataset, storage
from sidedoor.errors import CannotComplete, ConfigError, SidedoorError

log = logging.getLogger("sidedoor")
A = TypeVar("A")
B = TypeVar("B")

FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".webp",
                      ".gif", ".tif", ".tiff", ".heic", ".avif", ".jp2"})
"""Suffixes of image files. Files of a format that is not read are reported as refused rather than ignored."""

GREY_MODES = frozenset({"1", "L", "LA"})
COLOUR_MODES = frozenset({"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
PIXEL_LIMIT = 40_000_000
"""The most pixels of an image that is decoded."""

WORKERS = min(8, os.cpu_count() or 1)


class Unreadable(SidedoorError):
    """An image file that cannot be used, and why."""


class Header(NamedTuple):
    """The properties of an image that its file states before it is decoded."""

    channels: int
    height: int
    width: int


@contextmanager
def _opened(file: Path, limit: int) -> Iterator[Image.Image]:
    """The image in a file, its pixels not yet decoded; whatever goes wrong inside the block is `Unreadable`."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > limit:
                raise Unreadable(f"{image.width}×{image.height} pixels; at most {limit / 1e6:g} million are decoded")
            if image.mode not in GREY_MODES | COLOUR_MODES:
                raise Unreadable(f"pixels of mode {image.mode}; expected 8 bits a channel")
            yield image
    except Unreadable:
        raise
    except UnidentifiedImageError as error:
        raise Unreadable(f"not a {', '.join(FORMATS)} image") from error
    except Exception as error:  # a decoder that is fed a damaged file can raise anything
        raise Unreadable(f"{type(error).__name__}: {error}") from error


def inspect(file: Path, limit: int = PIXEL_LIMIT, *, whole: bool = False) -> Header:
    """The header of an image file; `whole` decodes the pixels as well, to be sure of them.

    Raises:
        Unreadable: the file is missing, damaged, too large or of a format that is not read.
    """
    with _opened(file, limit) as image:
        if whole:
            image.load()
        return Header(1 if image.mode in GREY_MODES else 3, image.height, image.width)


def pixels(
    file: Path, channels: int, size: tuple[int, int] | None = None, limit: int = PIXEL_LIMIT
) -> UInt8[np.ndarray, "c h w"]:
    """Decode an image to grey (1 channel) or RGB (3).

    Args:
        size: (height, width) to resize to, bilinear with antialiasing; None leaves it as it is.
        limit: pixels above which the file is not decoded.

    Raises:
        Unreadable: the file is missing, damaged, too large or of a format that is not read.
    """
    with _opened(file, limit) as image:
        # Pillow warns when the transparency of a palette is lost in one step.
        plain = image.convert("RGBA") if image.mode in ("P", "PA") else image
        plain = plain.convert("L" if channels == 1 else "RGB")
        height, width = size or (image.height, image.width)
        array = np.array(plain.resize((width, height), Image.Resampling.BILINEAR))
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


class Frame(NamedTuple):
    """The shape that images are brought to.

    Args:
        size: pixels per side. None: as the files, if they are all of one height and width, else 32.
        channels: 1 (grey) or 3 (RGB). None: 1 if all files are grey, else 3.
    """

    size: int | None = None
    channels: int | None = None

    def shape(self, headers: Sequence[Header]) -> tuple[int, int, int]:
        """(channels, height, width) for images with these headers."""
        channels = self.channels or max(header.channels for header in headers)
        if self.size:
            return channels, self.size, self.size
        sizes = {(header.height, header.width) for header in headers}
        if len(sizes) == 1:
            return channels, *sizes.pop()
        log.warning("the images have %d different sizes and are resized to 32×32; give a size to choose", len(sizes))
        return channels, 32, 32


class Limits(NamedTuple):
    """Sizes above which checks are skipped or files refused.

    Args:
        pixels: pixels above which a file is not decoded.
        verify: bytes of all files up to which each is decoded once at the start, so that every damage is found then.
        content: bytes of all files up to which the fingerprint covers their content, not only names and lengths.
    """

    pixels: int = PIXEL_LIMIT
    verify: int = 64 * 2**20
    content: int = 2**30


class FolderDataset(Dataset):
    """Image files, decoded when their rows are asked for and never all in memory.

    A file that cannot be used is quarantined: a warning names it, `quarantined` lists it. Found at the start, it is no
    row. Found later (only headers are read of sets above `limits.verify` bytes, and files may vanish), its row shows
    the next readable image of its class from then on, so that a run goes on with labels that are true.

    Attributes:
        files: the path of each row, relative to the folder.
        quarantined: (path, reason) of the files that are not used.

    Args:
        folder: what the paths are relative to.
        files: (path relative to the folder, label).

    Raises:
        ConfigError: no file, or a class without a readable one.
    """

    lazy = True

    def __init__(
        self, folder: Path, files: Sequence[tuple[str, int]], classes: tuple[str, ...],
        frame: Frame = Frame(), limits: Limits = Limits(),
    ):
        self.folder, self.classes, self.limits = folder, classes, limits
        self._refused: dict[str, str] = {}
        headers = self._scan([name for name, _ in files])
        kept = [(name, label, header) for (name, label), header in zip(files, headers, strict=True) if header]
        self.files = tuple(name for name, _, _ in kept)
        self.targets = torch.tensor([label for _, label, _ in kept], dtype=torch.int64)
        self._check_classes()
        self.shape = frame.shape([header for _, _, header in kept])
        self._fingerprint: str | None = None

    @property
    def quarantined(self) -> tuple[tuple[str, str], ...]:
        return tuple(self._refused.items())

    def rows(self, index: Int[Tensor, "b"]) -> UInt8[Tensor, "b c h w"]:
        rows = torch.empty((len(index), *self.shape), dtype=torch.uint8)
        for slot, decoded in enumerate(_parallel(self._row, index.tolist())):
            rows[slot] = torch.from_numpy(decoded)
        return rows

    def fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = self._hash()
        return self._fingerprint

    def _hash(self) -> str:
        sizes = [_length(self.folder / name) for name in self.files]
        whole = sum(sizes) <= self.limits.content
        digest = hashlib.sha256(repr((self.shape, self.classes)).encode())
        for name, label, size in zip(self.files, self.targets.tolist(), sizes, strict=True):
            digest.update(repr((name, label, size)).encode())
            if whole:
                digest.update((self.folder / name).read_bytes())
        return digest.hexdigest()

    def _scan(self, names: list[str]) -> list[Header | None]:
        """The header of each file, None for those that are quarantined."""
        whole = sum(_length(self.folder / name) for name in names) <= self.limits.verify

        def header(name: str) -> Header | None:
            try:
                return inspect(self.folder / name, self.limits.pixels, whole=whole)
            except Unreadable as error:
                self._refuse(name, error)
                return None

        return list(_parallel(header, names))

    def _check_classes(self) -> None:
        count = torch.bincount(self.targets, minlength=len(self.classes))
        empty = [self.classes[k] for k in torch.nonzero(count == 0)[:, 0].tolist()]
        if empty or not self.classes:
            raise ConfigError(f"{self.folder}: no readable image in {f'class {_some(empty)}' if empty else 'it'}"
                              f"{self._reasons()}; add images or remove the class")

    def _reasons(self) -> str:
        return f" ({_some([f'{name}: {why}' for name, why in self.quarantined])})" if self._refused else ""

    def _refuse(self, name: str, error: Unreadable) -> None:
        reason = str(error)
        if self._refused.setdefault(name, reason) is reason:  # one step, so that only one of two threads warns
            log.warning("%s is not used: %s", self.folder / name, reason)

    def _row(self, row: int) -> UInt8[np.ndarray, "c h w"]:
        """The pixels of a row's file, or of the next file of its class that can be used."""
        for name in self._candidates(row):
            if name in self._refused:
                continue
            try:
                return pixels(self.folder / name, self.shape[0], self.shape[1:], self.limits.pixels)
            except Unreadable as error:
                self._refuse(name, error)
        raise CannotComplete(f"{self.folder}: no readable image is left in class "
                             f"{self.classes[int(self.targets[row])]!r}{self._reasons()}")

    def _candidates(self, row: int) -> Iterator[str]:
        yield self.files[row]
        members = torch.nonzero(self.targets == self.targets[row])[:, 0].tolist()
        after = members.index(row) + 1
        yield from (self.files[other] for other in members[after:] + members[:after])


def _length(file: Path) -> int:
    """Bytes of a file, 0 if it is not there."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def gather(data: Dataset, name: str, limit: int = MEMORY_LIMIT) -> ArrayDataset:
    """Read all rows once, into memory or (above `limit` bytes) a memory map: for sets small enough to pay for it."""
    images = storage((len(data), *data.shape), limit)
    for start in range(0, len(data), 1024):
        rows = torch.arange(start, min(start + 1024, len(data)))
        images[start : start + 1024] = data.rows(rows).numpy()
    return ArrayDataset(images, data.targets, data.classes, name)


def class_files(folder: Path, base: Path) -> dict[str, list[str]]:
    """The image files of each class folder as paths relative to `base`, all in the order of their names.

    Names that start with a dot are skipped.

    Raises:
        ConfigError: no class folder, one without an image file, or a link to a folder or out of `folder`.
    """
    if folder.is_symlink():
        raise _link(folder, folder)
    classes = {entry.name: [file[len(str(base)) + 1 :].replace(os.sep, "/") for file in _images(entry, folder)]
               for entry in _entries(folder, folder) if entry.is_dir()}
    if not classes:
        raise ConfigError(f"{folder} has no class folders; expected one folder of images for each class")
    empty = [name for name, files in classes.items() if not files]
    if empty:
        raise ConfigError(f"{folder}: no image file in class {_some(empty)}; add images or remove the folder")
    return classes


def _images(folder: os.DirEntry[str], top: Path) -> list[str]:
    """The image files at any depth."""
    found: list[str] = []
    others: list[str] = []
    for entry in _entries(folder, top):
        if entry.is_dir():
            found += _images(entry, top)
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES and entry.is_file():
            found.append(entry.path)
        else:
            others.append(entry.name)
    if others:
        log.info("%s: passed over what is no image: %s", folder.path, _some(others))
    return found


def _entries(folder: os.PathLike[str], top: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as found:
        entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_symlink() and (entry.is_dir() or not Path(entry).resolve().is_relative_to(top.resolve())):
            raise _link(Path(entry), top)
    return entries


def _link(path: Path, top: Path) -> ConfigError:
    return ConfigError(f"{path} is a link to {path.resolve()}; only links to files inside {top} are followed: "
                       "copy what it points to")


def _parallel(f: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
    """`f` of each item in order, in a few threads: decoding leaves Python's lock."""
    step = max(1, min(64, len(items) // (4 * WORKERS)))
    with ThreadPoolExecutor(WORKERS) as pool:
        for start in range(0, len(items), 4096):
            many = items[start : start + 4096]
            for done in pool.map(lambda few: [f(item) for item in few],
                                 [many[k : k + step] for k in range(0, len(many), step)]):
                yield from done


def _some(names: Sequence[str], most: int = 5) -> str:
    """The first few of many names."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
