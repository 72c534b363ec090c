"""A folder of video clips of your own with an object's box in each frame, as OTB, VOT and GOT-10k are laid out.

Each folder is a clip: images in `img/`, `color/`, `imgs/` or the folder itself, in the order of their names, and a file
`groundtruth*.txt` with a line a frame. Four numbers are left, top, width and height, eight the corners of a polygon,
whose axis-aligned hull is taken (VOT's own conversion keeps the area instead); they are separated by commas, tabs,
semicolons or spaces, and the first pixel is 1. NaN, or a box without area, means that the object is not seen.

A folder with `train` and `val` (or `test`) in it, as GOT-10k, is read as these parts; else a third of the clips is held
out. Frames are made smaller, never larger, to fit one canvas, whose rest has the mean colour of the clip's first frame;
`zoom` says by how much, so that figures in pixels are those of the files. The label of a frame is its clip.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sidedoor.core import opening
from sidedoor.data.base import ArrayDataset, Splits, storage
from sidedoor.data.formats.images import SUFFIXES, Unreadable, in_order, inspect, pixels
from sidedoor.data.root import Where
from sidedoor.errors import ConfigError
from sidedoor.method import Count, Whole

IMAGES = ("img", "color", "imgs", "")
"""Folders below a clip's in which its frames may be."""
PARTS = (("train",), ("val", "test"))
"""Names of the folders of two parts."""
HELD_OUT = 1 / 3
TEXT_LIMIT = 2**24
"""Bytes of the largest file of boxes."""


class Clip(NamedTuple):
    """One clip: its frames, and the box of each as (left, top, right, bottom) in pixels, NaN where there is none."""

    name: str
    frames: list[Path]
    boxes: Float[Tensor, "t 4"]


def clips(where: Where, path: str, height: Count = 360, width: Count = 480, frames: Whole = 0) -> Splits:
    """Read both parts into memory, or where they are large onto the disk.

    Args:
        path: the folder of clips, absolute or below the current folder or the data root.
        height: of the canvas that frames are brought to.
        width: of that.
        frames: at most so many of each clip, from its first; 0 for all.

    Raises:
        CannotComplete: the folder does not exist.
        ConfigError: fewer than two clips, a frame that cannot be read, or boxes that are none.
    """
    top = where.locate(path)
    train, test = ([read_clip(folder, frames) for folder in part] for part in _parts(top, where.seed))
    names = tuple(clip.name for clip in (*train, *test))
    if len(set(names)) < len(names):
        raise ConfigError(f"{top}: two clips have one name; rename one")
    canvas = (height, width)
    return Splits(_data(train, 0, names, canvas), _data(test, len(train), names, canvas))


def read_clip(folder: Path, most: int = 0) -> Clip:
    """The clip in a folder; its frames are not opened yet.

    Raises:
        ConfigError: no frames, no file of boxes, another number of lines than frames, or a line that is no box.
    """
    found = (folder / name for name in IMAGES)
    images = next((files for place in found if (files := _files(place))), [])
    if not images:
        raise ConfigError(f"{folder} has no frames; expected images in img/, color/, imgs/ or the folder itself")
    said = sorted(folder.glob("groundtruth*.txt"))
    if not said:
        raise ConfigError(f"{folder} has no groundtruth*.txt; expected a file with a box for each frame")
    boxes = _boxes(said[0])
    if len(boxes) != len(images):
        raise ConfigError(f"{said[0]} has {len(boxes)} lines for {len(images)} frames; expected one line for each")
    if not boxes.isfinite().all(1)[: most or None].any():
        raise ConfigError(f"{said[0]} has no box; a tracker needs one to start from")
    return Clip(folder.name, images[: most or None], boxes[: most or None])


def _parts(top: Path, seed: int) -> tuple[list[Path], list[Path]]:
    """The folders of training and test clips."""
    found = [next((top / name for name in names if (top / name).is_dir()), None) for names in PARTS]
    if found[0] and found[1]:
        return _folders(found[0]), _folders(found[1])
    every = _folders(top)
    if len(every) < 2:
        raise ConfigError(f"{top} has {len(every)} clips; expected at least two, one to train and one to test on, or "
                          "folders train and val")
    order = np.random.default_rng(seed).permutation(len(every))
    count = max(1, round(HELD_OUT * len(every)))
    return [every[k] for k in sorted(order[count:])], [every[k] for k in sorted(order[:count])]


def _folders(top: Path) -> list[Path]:
    """Those of clips: folders with a file of boxes."""
    return [top / name for name in in_order({file.parent.name for file in top.glob("*/groundtruth*.txt")})]


def _files(place: Path) -> list[Path]:
    names = [file.name for file in place.iterdir() if file.suffix.lower() in SUFFIXES] if place.is_dir() else []
    return [place / name for name in sorted(names, key=lambda name: (len(name), name))]


def _boxes(file: Path) -> Float[Tensor, "t 4"]:
    try:
        lines = opening.text(file, TEXT_LIMIT).splitlines()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    return torch.tensor([_box(file, number, line) for number, line in enumerate(lines, 1) if line.strip()]) \
        .reshape(-1, 4)


def _box(file: Path, number: int, line: str) -> tuple[float, float, float, float]:
    try:
        values = [float(word) for word in re.split(r"[,;\s]+", line.strip(" ,;\t\r"))]
    except ValueError:
        values = []
    if len(values) not in (4, 8):
        raise ConfigError(f"{file}, line {number}: {line[:60]!r} given; expected 4 numbers (left, top, width, height) "
                          "or 8 (the corners of a polygon)")
    if len(values) == 8:
        across, down = values[::2], values[1::2]
        box = (min(across) - 1, min(down) - 1, max(across) - 1, max(down) - 1)
    else:
        left, top, wide, tall = values
        box = (left - 1, top - 1, left - 1 + wide, top - 1 + tall)
    seen = all(map(math.isfinite, values)) and box[2] > box[0] and box[3] > box[1]
    return box if seen else (math.nan,) * 4


def _data(part: list[Clip], first: int, names: tuple[str, ...], canvas: tuple[int, int]) -> ArrayDataset:
    """A part as one data set.

    Args:
        first: number of its first clip.
    """
    count = [len(clip.frames) for clip in part]
    images, zoom = storage((sum(count), 3, *canvas)), torch.ones(sum(count))
    boxes, start = torch.full((sum(count), 1, 5), -1.0), 0
    for clip in part:
        rows = slice(start, start + len(clip.frames))
        zoom[rows] = factor = _draw(clip, images[rows], canvas)
        there = torch.cat([torch.zeros(len(clip.frames), 1), clip.boxes * factor], 1)
        boxes[rows, 0] = torch.where(clip.boxes.isfinite().all(1)[:, None], there, -1.0)
        start = rows.stop
    label = torch.repeat_interleave(first + torch.arange(len(part)), torch.tensor(count))
    boxes[:, 0, 0] = torch.where(boxes[:, 0, 0] >= 0, label.float(), -1.0)
    return ArrayDataset(images, label, names, "clips", groups=label, boxes=boxes, zoom=zoom)


def _draw(clip: Clip, canvas: np.ndarray, size: tuple[int, int]) -> float:
    """Put the frames of a clip at the top left of their canvases; by what factor they were made smaller."""
    try:
        header = inspect(clip.frames[0])
        factor = min(1.0, size[0] / header.height, size[1] / header.width)
        tall, wide = (max(1, round(side * factor)) for side in (header.height, header.width))
        for row, file in zip(canvas, clip.frames, strict=True):
            row[:, :tall, :wide] = pixels(file, 3, (tall, wide))
    except Unreadable as error:
        raise ConfigError(f"a frame of the clip {clip.name} cannot be read: {error}; replace it, or remove the clip") \
            from error
    mean = canvas[0, :, :tall, :wide].mean((1, 2)).round()
    canvas[:, :, tall:] = mean[:, None, None]
    canvas[:, :, :, wide:] = mean[:, None, None]
    return factor
