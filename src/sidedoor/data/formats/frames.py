"""Frames of a video of one's own: a folder of images, an animated GIF or WEBP, or with the extra `video` a video file.

Like images of unknown origin they are bounded before they are decoded: in bytes, in pixels of a frame, and in all.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from sidedoor.core import opening
from sidedoor.data.formats.images import BYTE_LIMIT, GREY_MODES, JUNK, PIXEL_LIMIT, SUFFIXES, Unreadable, pixels
from sidedoor.errors import CannotComplete, ConfigError

Pixels = UInt8[np.ndarray, "c h w"]

ANIMATED = ("GIF", "WEBP")
VIDEO = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"})
"""Suffixes of files that need a decoder of videos."""
VALUES = 2**28
"""The most values of all frames together."""


def read_frames(path: Path, channels: int = 3, most: int = 0) -> UInt8[Tensor, "t c h w"]:
    """The frames of a video, in order; those of a folder by the numbers in their names' lengths, then by name.

    Args:
        channels: 1 (grey) or 3 (RGB).
        most: frames, from the first; 0 for all.

    Raises:
        CannotComplete: it is missing or cannot be read, or the package for it is.
        ConfigError: no frame, frames of different sizes, or more than are taken into memory.
    """
    if not path.exists():
        raise CannotComplete(f"{path} is not there; expected a folder of images, an animated GIF or WEBP, or a video")
    try:
        if path.is_dir():
            return _gathered(path, _of_folder(path, channels, most), most)
        if path.suffix.lower() in VIDEO:
            return _gathered(path, _of_video(path, channels), most)
        return _gathered(path, _of_animation(path, channels), most)
    except (OSError, Unreadable) as error:
        raise CannotComplete(f"{path} cannot be read: {error}") from error


def _gathered(path: Path, frames: Iterable[Pixels], most: int) -> UInt8[Tensor, "t c h w"]:
    found: list[Pixels] = []
    for frame in frames:
        if found and frame.shape != found[0].shape:
            (_, tall, wide), (_, height, width) = found[0].shape, frame.shape
            raise ConfigError(f"{path}: frame {len(found) + 1} has {width}×{height} pixels, those before it "
                              f"{wide}×{tall}; expected one size")
        if (len(found) + 1) * frame.size > VALUES:
            raise ConfigError(f"{path} has more than {len(found)} frames of {frame.shape[2]}×{frame.shape[1]} pixels, "
                              "which is all that is taken into memory; take fewer frames, or make them smaller")
        found.append(frame)
        if len(found) == most:
            break
    if not found:
        raise ConfigError(f"{path} has no frame; expected a folder of images, an animated GIF or WEBP, or a video")
    return torch.from_numpy(np.stack(found))


def _of_folder(folder: Path, channels: int, most: int) -> Iterator[Pixels]:
    names = [file.name for file in folder.iterdir()
             if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.name not in JUNK]
    for name in sorted(names, key=lambda name: (len(name), name))[: most or None]:  # so that 10 comes after 9
        try:
            yield pixels(folder / name, channels)
        except Unreadable as error:
            raise CannotComplete(f"{folder / name} cannot be read: {error}") from error


def _of_animation(path: Path, channels: int) -> Iterator[Pixels]:
    stream = io.BytesIO(opening.read(path, BYTE_LIMIT))
    try:
        with Image.open(stream, formats=ANIMATED) as image:
            _check_size(image.width, image.height)
            place = 0
            with suppress(EOFError):
                while True:
                    image.seek(place)
                    yield _converted(image, channels)
                    place += 1
    except UnidentifiedImageError as error:
        raise Unreadable(f"no animated {' or '.join(ANIMATED)}, and no video by its name "
                         f"({', '.join(sorted(VIDEO))})") from error
    except Unreadable:
        raise
    except Exception as error:  # a decoder that is fed a damaged file can raise anything
        raise Unreadable(f"{type(error).__name__}: {error}") from error


def _converted(image: Image.Image, channels: int) -> Pixels:
    plain = image if image.mode in GREY_MODES | {"RGB"} else image.convert("RGBA")
    array = np.array(plain.convert("L" if channels == 1 else "RGB"))
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _of_video(path: Path, channels: int) -> Iterator[Pixels]:
    try:
        import av
    except ImportError as error:
        raise CannotComplete(f"{path} is a video file, which needs the package av: pip install 'sidedoor[video]', or "
                             "give a folder of images or an animated GIF or WEBP") from error
    try:
        # From memory: a file that names others, or an address, leads nowhere.
        with av.open(io.BytesIO(opening.read(path, BYTE_LIMIT))) as container:
            if not container.streams.video:
                raise Unreadable("it has no pictures")
            size = container.streams.video[0].codec_context
            _check_size(size.width, size.height)
            for frame in container.decode(video=0):
                _check_size(frame.width, frame.height)
                array = frame.to_ndarray(format="gray" if channels == 1 else "rgb24")
                yield array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))
    except av.error.FFmpegError as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error


def _check_size(width: int, height: int) -> None:
    if width * height > PIXEL_LIMIT:
        raise Unreadable(f"{width}×{height} pixels; at most {PIXEL_LIMIT / 1e6:g} million are decoded")
