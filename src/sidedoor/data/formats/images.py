"""Image files: decoding that withstands damaged and hostile files, and folders of files decoded lazily.

PNG, JPEG, BMP, PPM (with PBM and PGM) and WEBP are read, by their content and not their suffix. Pixels are taken
as stored: EXIF orientation is not applied, embedded colour profiles are not, transparency is dropped, and of an
animation the first frame counts. Images of more than 8 bits a channel are refused rather than clipped, and so are
those that hold fewer pixels than their header says, which decoders fill up with black or grey.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from sidedoor.core import opening
from sidedoor.data.base import MEMORY_LIMIT, ArrayDataset, Dataset, storage, writable
from sidedoor.errors import CannotComplete, ConfigError, SidedoorError

log = logging.getLogger("sidedoor")
A = TypeVar("A")
B = TypeVar("B")

FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm",
                      ".webp", ".gif", ".tif", ".tiff", ".heic", ".avif", ".jp2"})
"""Suffixes of image files. Files of a format that is not read are reported as refused rather than ignored."""

JUNK = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""Folders that systems put beside what people keep."""

GREY_MODES = frozenset({"1", "L", "LA"})
COLOUR_MODES = frozenset({"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
PIXEL_LIMIT = 40_000_000
"""The most pixels of an image that is decoded."""
SIDE_LIMIT = 65_535
"""The most pixels of a side: decoders keep something for each row, however short."""
BYTE_LIMIT = 2**28
"""The most bytes of an image file."""
SCAN_LIMIT = 200
"""The most passes of a progressive JPEG, each of which takes time for the whole image."""
LARGE = 2**22
"""Pixels above which images are decoded one at a time."""
_DEFLATE = 1032
"""The most bytes that deflate makes of one."""

WORKERS = min(8, os.cpu_count() or 1)


class Unreadable(SidedoorError):
    """An image file that cannot be used, and why."""


class Header(NamedTuple):
    """The properties of an image that its file states before it is decoded."""

    channels: int
    height: int
    width: int


_LARGE = threading.Lock()


@contextmanager
def _opened(file: Path, limit: int, *, whole: bool) -> Iterator[tuple[Image.Image, BinaryIO]]:
    """The image in a file, its pixels not yet decoded, and its bytes, all of them in memory if it is read whole.

    Whatever goes wrong inside the block is `Unreadable`.
    """
    try:
        with ExitStack() as stack:
            stream: BinaryIO = io.BytesIO(opening.read(file, BYTE_LIMIT)) if whole else \
                stack.enter_context(opening.opened(file, BYTE_LIMIT))
            image = stack.enter_context(Image.open(stream, formats=FORMATS))
            _check_header(image, limit)
            if whole and image.width * image.height > LARGE:
                stack.enter_context(_LARGE)
            yield image, stream
    except Unreadable:
        raise
    except UnidentifiedImageError as error:
        raise Unreadable(f"not a {', '.join(FORMATS)} image") from error
    except opening.Unopenable as error:
        raise Unreadable(str(error)) from error
    except Exception as error:  # a decoder that is fed a damaged file can raise anything
        raise Unreadable(f"{type(error).__name__}: {error}") from error


def _check_header(image: Image.Image, limit: int) -> None:
    if image.width * image.height > limit:
        raise Unreadable(f"{image.width}×{image.height} pixels; at most {limit / 1e6:g} million are decoded")
    if max(image.size) > SIDE_LIMIT:
        raise Unreadable(f"{image.width}×{image.height} pixels; a side has at most {SIDE_LIMIT:,}")
    if image.mode not in GREY_MODES | COLOUR_MODES:
        raise Unreadable(f"pixels of mode {image.mode}; expected 8 bits a channel")
    if _deep(image):
        raise Unreadable("more than 8 bits a channel; convert it to 8 bits")
    if image.mode in ("P", "PA") and not (image.palette and image.palette.palette):
        raise Unreadable("its pixels are numbers of a palette, which it does not have")


def _deep(image: Image.Image) -> bool:
    """Whether the file has more than 8 bits a channel, of which a decoder would keep 8."""
    for tile in getattr(image, "tile", ()):
        given = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(isinstance(a, str) and ";16" in a for a in given) or (tile[0].startswith("ppm") and given[-1] > 255):
            return True
    return False


def _load(image: Image.Image, stream: BinaryIO) -> None:
    """Decode the pixels, and make sure that the file has all of them."""
    data = stream.getbuffer() if isinstance(stream, io.BytesIO) else memoryview(stream.read())
    if image.format == "PNG":
        expected = _png_bytes(data)
        if expected > _DEFLATE * len(data):
            raise Unreadable(_TOO_FEW)
        image.load()
        if (data[28] or not np.asarray(image)[-1].any()) and not _inflates(data, expected):
            raise Unreadable(_TOO_FEW)
    elif image.format in ("JPEG", "MPO"):
        if len(re.findall(b"\xff\xda", data)) > SCAN_LIMIT:
            raise Unreadable(f"more than {SCAN_LIMIT} passes over its pixels")
        image.load()
        if image.format == "JPEG" and _filled_up(image, bytes(data)):
            raise Unreadable(_TOO_FEW)
    else:
        image.load()


_NOISE = bytes(range(1, 251)) * 4
_MORE = _NOISE + b"".join(bytes([0xFF, 0xD0 + k % 8]) + _NOISE for k in range(16))
"""What would be more pixels of a JPEG, also of one that is cut into parts by restart markers."""
_TOO_FEW = "fewer pixels than its header says"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Of the colour types of PNG."""
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""(first column, first row, columns between, rows between) of an interlaced PNG."""


def _png_bytes(data: memoryview) -> int:
    """How many bytes the pixels of a PNG are before compression, each row with its filter."""
    if bytes(data[12:16]) != b"IHDR":
        raise Unreadable("its header does not come first")
    width, height = (int.from_bytes(data[k : k + 4], "big") for k in (16, 20))
    bits = data[24] * _CHANNELS.get(data[25], 4)
    total = 0
    for left, top, across, down in _PASSES if data[28] else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        total += rows * (1 + -(-columns * bits // 8)) if columns > 0 and rows > 0 else 0
    return total


def _inflates(data: memoryview, expected: int) -> bool:
    """Whether the compressed data of a PNG give as many bytes."""
    inflater, found = zlib.decompressobj(), 0
    for part in _png_parts(data):
        rest: bytes | memoryview = part
        while rest and not inflater.eof and found < expected:
            found += len(inflater.decompress(rest, opening.CHUNK))
            rest = inflater.unconsumed_tail
    return found >= expected


def _png_parts(data: memoryview) -> Iterator[memoryview]:
    at = 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if bytes(data[at + 4 : at + 8]) == b"IDAT":
            yield data[at + 8 : at + 8 + length]
        at += 12 + length


def _filled_up(image: Image.Image, data: bytes) -> bool:
    """Whether a JPEG ends before its last pixels: what stands behind its end would then become pixels.

    A decoder fills up with blocks of one colour, so a file whose last block has several is whole.
    """
    pixels = np.asarray(image)
    if len(np.unique(pixels[-1, -8:].reshape(min(8, image.width), -1), axis=0)) > 1:
        return False
    end = data.rfind(b"\xff\xd9")
    with Image.open(io.BytesIO(data[:end] + _MORE + data[end:]), formats=("JPEG",)) as longer:
        return not np.array_equal(np.asarray(longer), pixels)


def inspect(file: Path, limit: int = PIXEL_LIMIT, *, whole: bool = False) -> Header:
    """The header of an image file; `whole` decodes the pixels as well, to be sure of them.

    Raises:
        Unreadable: the file is missing, damaged, too large or of a format that is not read.
    """
    with _opened(file, limit, whole=whole) as (image, stream):
        if whole:
            _load(image, stream)
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
    with _opened(file, limit, whole=True) as (image, stream):
        _load(image, stream)
        # Pillow warns when the transparency of a palette is lost in one step.
        plain = image.convert("RGBA") if image.mode in ("P", "PA") else image
        wanted = "L" if channels == 1 else "RGB"
        plain = plain if plain.mode == wanted else plain.convert(wanted)
        height, width = size or (image.height, image.width)
        plain = plain if plain.size == (width, height) else plain.resize((width, height), Image.Resampling.BILINEAR)
        array = np.array(plain)
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


class Frame(NamedTuple):
    """The shape that images are brought to.

    Args:
        size: pixels per side. None: as the files, if they are all of one height and width, else 32.
        channels: 1 (grey) or 3 (RGB). None: 1 if all files are grey, else 3.
    """

    size: int | None = None
    channels: int | None = None

    def shape(self, headers: Sequence[Header]) -> tuple[tuple[int, int, int], str]:
        """(channels, height, width) for images with these headers, and what they are resized from; empty if nothing
        is.
        """
        channels = self.channels or max(header.channels for header in headers)
        sizes = {(header.height, header.width) for header in headers}
        least, most = (f"{height}×{width}" for height, width in (min(sizes), max(sizes)))
        several = f"{len(sizes)} different sizes, from {least} to {most} pixels (height × width)"
        if self.size:
            same = sizes == {(self.size, self.size)}
            return (channels, self.size, self.size), "" if same else least if len(sizes) == 1 else several
        if len(sizes) == 1:
            return (channels, *sizes.pop()), ""
        log.warning("the images have %s, and are resized to 32×32; `size = PIXELS` chooses another size", several)
        return (channels, 32, 32), several


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
        self.folder, self.classes, self.limits = folder, writable(classes), limits
        self._refused: dict[str, str] = {}
        headers = self._scan([name for name, _ in files])
        kept = [(name, label, header) for (name, label), header in zip(files, headers, strict=True) if header]
        self.files = tuple(name for name, _, _ in kept)
        self.targets = torch.tensor([label for _, label, _ in kept], dtype=torch.int64)
        self._check_classes()
        self.shape, self.resized = frame.shape([header for _, _, header in kept])
        self._fingerprint: str | None = None
        self._hashed: dict[str, tuple[int, int, int]] = {}

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
                digest.update(self._content(name))
        return digest.hexdigest()

    def _content(self, name: str) -> bytes:
        try:
            self._hashed[name] = _state(self.folder / name)
            return opening.read(self.folder / name, BYTE_LIMIT)
        except OSError as error:
            raise CannotComplete(f"{self.folder / name} cannot be read any more: {error}") from error

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
                found = pixels(self.folder / name, self.shape[0], self.shape[1:], self.limits.pixels)
            except Unreadable as error:
                self._refuse(name, error)
                continue
            if name in self._hashed and _state(self.folder / name) != self._hashed[name]:
                raise CannotComplete(f"{self.folder / name} was changed while it was in use; run again")
            return found
        raise CannotComplete(f"{self.folder}: no readable image is left in class "
                             f"{self.classes[int(self.targets[row])]!r}{self._reasons()}")

    def _candidates(self, row: int) -> Iterator[str]:
        yield self.files[row]
        members = torch.nonzero(self.targets == self.targets[row])[:, 0].tolist()
        after = members.index(row) + 1
        yield from (self.files[other] for other in members[after:] + members[:after])


def _state(file: Path) -> tuple[int, int, int]:
    """What changes when a file is written or replaced."""
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


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

    Classes whose names are all numbers come in the order of these. Names that start with a dot are skipped, and what
    systems put beside (`JUNK`).

    Raises:
        ConfigError: no class folder, one without an image file, or a link to a folder or out of `folder`.
    """
    if folder.is_symlink():
        raise _link(folder, folder)
    found = {entry.name: entry for entry in entries(folder, folder) if entry.is_dir()}
    classes = {name: [file[len(str(base)) + 1 :].replace(os.sep, "/") for file in _images(found[name], folder)]
               for name in in_order(found)}
    if not classes:
        raise ConfigError(f"{folder} has no class folders; expected one folder of images for each class")
    empty = [name for name, files in classes.items() if not files]
    if empty:
        raise ConfigError(f"{folder}: no image file in class {_some(empty)}; add images or remove the folder")
    return classes


def in_order(names: Iterable[str]) -> list[str]:
    """Names in their order; by number if all are numbers, so that 10 comes after 9."""
    listed = sorted(names)
    numbers = all(name.isascii() and name.isdigit() for name in listed)
    return sorted(listed, key=lambda name: (int(name), len(name))) if numbers else listed


def _images(folder: os.DirEntry[str], top: Path) -> list[str]:
    """The image files at any depth."""
    found: list[str] = []
    others: list[str] = []
    for entry in entries(folder, top):
        if entry.is_dir():
            found += _images(entry, top)
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES and entry.is_file():
            found.append(entry.path)
        else:
            others.append(entry.name)
    if others:
        log.info("%s: passed over what is no image: %s", folder.path, _some(others))
    return found


def entries(folder: os.PathLike[str], top: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name, but for what systems put there.

    Raises:
        ConfigError: a link to a folder, or out of `top`.
    """
    with os.scandir(folder) as found:
        entries = sorted((entry for entry in found if not entry.name.startswith(".") and entry.name not in JUNK),
                         key=lambda entry: entry.name)
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
