"""Image files: damaged, mislabelled, larger than they look, deeper than 8 bits."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from sidedoor.data.formats.images import PIXEL_LIMIT, inspect, pixels
from tests.corpus.base import Item

MEMORY = 16 * PIXEL_LIMIT
"""Decoders hold an image a few times, four bytes a pixel."""


def picture(size: tuple[int, ...] = (20, 24, 3), kind: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, size).astype(kind)


def saved(form: str, array: np.ndarray | None = None, mode: str | None = None, **options: Any) -> bytes:
    image = Image.fromarray(picture() if array is None else array)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, body: bytes, depth: int = 8, colour: int = 0, interlaced: int = 0,
        extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(body, 1))
            + chunk(b"IEND", b""))


def taller(jpeg: bytes, height: int) -> bytes:
    at = max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2"))
    return jpeg[: at + 5] + struct.pack(">H", height) + jpeg[at + 7 :]


def scans(jpeg: bytes, count: int) -> bytes:
    """A progressive JPEG with its last pass repeated."""
    at, end = jpeg.rfind(b"\xff\xda"), jpeg.rfind(b"\xff\xd9")
    return jpeg[:end] + jpeg[at:end] * count + jpeg[end:]


def bmp(width: int, height: int, bits: int, body: bytes, palette: bytes = b"", packing: int = 0) -> bytes:
    start = 54 + len(palette)
    return (b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start)
            + struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, packing, len(body), 0, 0, len(palette) // 4, 0)
            + palette + body)


def webp_of(width: int, height: int) -> bytes:
    return saved("WEBP", np.zeros((height, width, 3), np.uint8), lossless=True, method=0)


def large_text() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("k", "v" * (8 * 2**20), zip=True)
    return saved("PNG", pnginfo=info)


def good() -> Iterator[tuple[str, Callable[[], bytes]]]:
    yield "png", lambda: saved("PNG")
    for form in ("JPEG", "BMP", "PPM", "WEBP"):
        yield form.lower(), lambda form=form: saved(form)  # type: ignore[misc]
    yield "cmyk", lambda: saved("JPEG", mode="CMYK")
    yield "progressive", lambda: saved("JPEG", progressive=True)
    yield "restarts", lambda: saved("JPEG", restart_marker_rows=1)
    yield "palette", lambda: saved("PNG", mode="P")
    yield "bits", lambda: saved("PNG", mode="1")
    yield "grey with alpha", lambda: saved("PNG", mode="LA")
    yield "alpha", lambda: saved("PNG", mode="RGBA")
    yield "black", lambda: saved("PNG", np.zeros((30, 30), np.uint8))
    yield "white jpeg", lambda: saved("JPEG", np.full((30, 30), 255, np.uint8))
    yield "interlaced", lambda: png(1, 1, bytes(2), interlaced=1)
    yield "one pixel", lambda: saved("PNG", picture((1, 1, 3)))
    yield "bytes behind the end", lambda: saved("JPEG") + bytes(500)
    yield "39 million pixels", lambda: png(6000, 6500, bytes(6001 * 6500))


def odd() -> Iterator[tuple[str, bytes | Callable[[], bytes]]]:
    for form in ("PNG", "JPEG", "BMP", "PPM", "WEBP"):
        whole = saved(form)
        for share in (0.1, 0.5, 0.9, 0.99):
            yield f"{form} cut at {share}", whole[: int(share * len(whole))]
        yield f"{form} with zeros inside", whole[: len(whole) // 2] + bytes(50) + whole[len(whole) // 2 + 50 :]
        yield f"{form} twice", whole * 2
    for name, colour in {"grey": 0, "rgb": 2, "grey alpha": 4, "rgba": 6}.items():
        yield f"16 bits {name}", lambda colour=colour: png(4, 4, bytes(200), 16, colour)
    yield "16 bits ppm", b"P6 2 2 65535\n" + bytes(24)
    yield "16 bits pgm", b"P5 2 2 65535\n" + bytes(8)
    yield "1000 levels", b"P6 2 2 1000\n" + bytes(24)
    yield "no palette", lambda: png(4, 4, bytes(20), 8, 3)
    yield "empty palette", lambda: png(4, 4, bytes(20), 8, 3, extra=chunk(b"PLTE", b""))
    yield "numbers beyond the palette", lambda: png(4, 4, b"\0\7\7\7\7" * 4, 8, 3, extra=chunk(b"PLTE", bytes(3)))
    yield "too few rows", lambda: png(4, 9, bytes(20))
    yield "too few rows, interlaced", lambda: png(9, 9, bytes(20), interlaced=1)
    yield "no rows", lambda: png(4, 4, b"")
    yield "many rows of nothing", lambda: png(6000, 6000, bytes(100))
    yield "very tall", lambda: png(1, 30_000_000, bytes(2**20))
    yield "tall as it may be", lambda: png(1, 65_535, bytes(2 * 65_535))
    yield "very wide", lambda: png(30_000_000, 1, bytes(30_000_001))
    yield "too many pixels", lambda: png(30_000, 30_000, bytes(1000))
    yield "no pixels", lambda: png(0, 0, b"")
    yield "sides that overflow", lambda: png(2**31 - 1, 2**31 - 1, b"")
    yield "text of 8 MB", large_text
    yield "another chunk first", lambda: b"\x89PNG\r\n\x1a\n" + chunk(b"tEXt", b"k\0v") + png(4, 4, bytes(20))[8:]
    yield "wrong sums", lambda: png(4, 4, bytes(20)).replace(b"IEND", b"IENX")
    yield "endless chunk", lambda: png(4, 4, bytes(20))[:33] + b"\x7f\xff\xff\xffIDAT"
    for height in (21, 200, 60_000):
        yield f"jpeg of height {height}", lambda height=height: taller(saved("JPEG"), height)
        yield f"progressive of height {height}", lambda height=height: taller(saved("JPEG", progressive=True), height)
    yield "ten thousand passes", lambda: scans(saved("JPEG", progressive=True), 10_000)
    yield "bmp that says more", bmp(4000, 4000, 24, bytes(100))
    yield "bmp, packed, short", bmp(16, 16, 8, bytes([16, 5, 0, 0, 0, 1]), bytes(1024), 1)
    yield "bmp of negative height", bmp(4, -4, 24, bytes(48))
    yield "bmp without a palette", bmp(16, 16, 8, bytes(256))
    yield "webp, flat, 36 million", lambda: webp_of(6000, 6000)
    yield "plain ppm, short", b"P3 2 2 255\n1 2 3"
    yield "plain ppm, long token", b"P3 2 2 255\n" + b"1" * 10**6
    yield "gif", saved("GIF")
    yield "tiff", saved("TIFF")
    yield "svg", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
    yield "postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(executed) (w) file\n"
    yield "text", b"just some text"
    yield "empty", b""
    yield "noise", np.random.default_rng(0).bytes(10**5)


def made(content: bytes | Callable[[], bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "a.png").write_bytes(content if isinstance(content, bytes) else content())
        return folder / "a.png"
    return make


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.png")
    return folder / "a.png"


def linked(folder: Path) -> Path:
    (folder / "a.png").symlink_to("/dev/zero")
    return folder / "a.png"


def read(path: Path) -> object:
    """Headers, then all of it, then resized, as a folder's images are."""
    inspect(path)
    inspect(path, whole=True)
    return pixels(path, 3, (32, 32)), pixels(path, 1)


def items() -> Iterator[Item]:
    for name, content in good():
        yield Item("image", name, made(content), read, good=True, memory=MEMORY)
    for name, odd_content in odd():
        yield Item("image", name, made(odd_content), read, memory=MEMORY)
    yield Item("image", "pipe", pipe, read)
    yield Item("image", "link to zeros", linked, read)
    yield Item("image", "folder", lambda folder: folder, read)
