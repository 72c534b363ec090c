"""Clips with boxes, and videos of one's own: odd boxes, missing frames, pipes, animations larger than they look."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sidedoor import registry, zoo
from sidedoor.data.formats.frames import read_frames
from tests.corpus.base import Item

Make = Callable[[Path], Path]
FRAMES = 4


def loaded(path: Path) -> object:
    """Load clips, hash them and show some of their rows."""
    splits = zoo.load({"name": "clips", "path": str(path), "height": 24, "width": 32})
    return splits.fingerprint(), [part.fetch(torch.arange(min(8, len(part)))) for part in splits]


def clips(text: str | bytes = "3,4,8,6\n" * FRAMES, change: Callable[[Path], object] = lambda _: None) -> Make:
    """Two clips, the boxes of the first given, and the first changed."""
    def make(folder: Path) -> Path:
        for name in ("a", "b"):
            (folder / "set" / name / "img").mkdir(parents=True)
            for k in range(FRAMES):
                Image.fromarray(np.full((24, 32, 3), 20 * k, np.uint8)).save(folder / "set" / name / "img" / f"{k}.png")
            (folder / "set" / name / "groundtruth.txt").write_text("3,4,8,6\n" * FRAMES)
        first = folder / "set" / "a"
        (first / "groundtruth.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
        change(first)
        return folder / "set"
    return make


def pipe(first: Path) -> None:
    (first / "groundtruth.txt").unlink()
    os.mkfifo(first / "groundtruth.txt")


def boxes() -> Iterator[tuple[str, Make, bool]]:
    yield "boxes of OTB", clips(), True
    yield "tabs and spaces", clips("3\t4 8\t6\r\n" * FRAMES), True
    yield "polygons", clips("3,4,9,4,9,8,3,8\n" * FRAMES), True
    yield "not seen for a while", clips("3,4,8,6\nNaN,NaN,NaN,NaN\n0,0,0,0\n3,4,8,6\n"), True
    yield "far outside", clips("-900,4000,8,6\n" * FRAMES), False
    yield "huge", clips("1e300,1e300,1e300,1e300\n" * FRAMES), False
    yield "infinite", clips("3,4,inf,6\n" * FRAMES), False
    yield "never seen", clips("NaN,NaN,NaN,NaN\n" * FRAMES), False
    yield "too few lines", clips("3,4,8,6\n"), False
    yield "five numbers", clips("1,2,3,4,5\n" * FRAMES), False
    yield "words", clips("left top wide tall\n" * FRAMES), False
    yield "no text", clips(bytes(range(256)) * 4), False
    yield "one long line", clips("1," * 2**20), False
    yield "a megabyte of lines", clips("3,4,8,6\n" * 2**17), False
    yield "a pipe", clips(change=pipe), False
    yield "boxes that are a folder", clips(change=lambda top: ((top / "groundtruth.txt").unlink(),
                                                               (top / "groundtruth.txt").mkdir())), False
    yield "a frame that is none", clips(change=lambda top: (top / "img" / "2.png").write_bytes(b"no image")), False
    yield "a small frame", clips(change=lambda top: Image.new("RGB", (9, 7)).save(top / "img" / "2.png")), False
    yield "no frames", clips(change=lambda top: [file.unlink() for file in (top / "img").iterdir()]), False


def animation(count: int, size: tuple[int, int], suffix: str = ".gif", cut: int | None = None) -> Make:
    """Frames of growing brightness.

    Args:
        cut: bytes that are kept.
    """
    def make(folder: Path) -> Path:
        first, *rest = (Image.new("L", size, k % 250) for k in range(count))
        file = io.BytesIO()
        first.save(file, suffix[1:].upper(), save_all=True, append_images=rest, duration=20)
        (folder / f"video{suffix}").write_bytes(file.getvalue()[:cut])
        return folder / f"video{suffix}"
    return make


def written(name: str, content: bytes) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name
    return make


def videos() -> Iterator[tuple[str, Make, bool]]:
    yield "a gif", animation(5, (32, 24)), True
    yield "a webp", animation(5, (32, 24), ".webp"), True
    yield "half a gif", animation(5, (32, 24), cut=60), False
    yield "half a webp", animation(5, (32, 24), ".webp", cut=60), False
    yield "a gif of a gigabyte", animation(300, (2000, 2000)), False
    yield "text", written("video.gif", b"GIF89a" + b"text" * 99), False
    yield "an empty file", written("video.webp", b""), False
    yield "no video", written("video.mp4", b"\0\0\0\x20ftypisom" + b"\xff" * 999), False
    yield "65535 pixels a side", written("video.gif", b"GIF89a\xff\xff\xff\xff\0\0\0," + b"\0" * 99), False


def items() -> Iterator[Item]:
    registry.load("data", "clips")  # once, rather than in each child
    for name, make, good in boxes():
        yield Item("video", f"clips, {name}", make, loaded, good)
    for name, make, good in videos():
        yield Item("video", f"video, {name}", make, read_frames, good)
