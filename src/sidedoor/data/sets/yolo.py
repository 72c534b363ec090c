"""A folder of images with boxes of your own, in the layouts that YOLO's tools use.

`DIR/images/train*` and `DIR/images/val*` (or `valid*`, `test*`) hold images, `DIR/labels/...` a text file of the same
name for each: a line an object, with its class and the centre, width and height of its box as shares of the image's
sides. An image without such a file, or with an empty one, has no object. `DIR/train/images` beside `DIR/train/labels`
is read as well, and so is what a `data.yaml` says. Class names come from there (`names`), from `names.json` (a list, or
a table by number) or `classes.txt` (a line each), else classes are called by their numbers.

Images are stretched to a square. The label of an image is the class of its largest object, the first class without one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert

from sidedoor.data.base import CLASS_LIMIT, ArrayDataset, Splits, storage
from sidedoor.data.formats import yolo as layouts
from sidedoor.data.formats.images import Unreadable, pixels
from sidedoor.data.root import Where
from sidedoor.errors import ConfigError
from sidedoor.method import Count

log = logging.getLogger("sidedoor")
Boxes = list[list[float]]
FIELDS = 5
BOX_LIMIT = 2**23
"""The most boxes of a part, each image having as many as the one with most."""


def yolo(where: Where, path: str, size: Count = 352) -> Splits:
    """Read both parts into memory. Images that cannot be read are named in a warning and left out.

    Args:
        path: the folder or its `data.yaml`, absolute or below the current folder or the data root.
        size: pixels a side to stretch images to.

    Raises:
        CannotComplete: the folder does not exist.
        ConfigError: a part is missing or has no readable image, or labels are broken.
    """
    found = layouts.layout(where.locate(path))
    top = found.top
    parts = [_read(found, folders, size) for folders in (found.train, found.test)]
    rows = [row for _, labels in parts for rows in labels for row in rows]
    classes = _classes(found, int(max((row[0] for row in rows), default=0)) + 1)
    most = max(1, *(len(rows) for _, labels in parts for rows in labels))
    if most * max(len(labels) for _, labels in parts) > BOX_LIMIT:
        raise ConfigError(f"{top}: an image with {most:,} boxes, which is too many for a set of this size")
    return Splits(*(_data(images, labels, classes, (size, most), top.name) for images, labels in parts))


def _read(layout: layouts.Layout, folders: Sequence[Path], size: int) -> tuple[np.ndarray, list[Boxes]]:
    files = layout.images(folders)
    images, labels = storage((len(files), 3, size, size)), list[Boxes]()
    for file in files:
        try:
            images[len(labels)] = pixels(file, 3, (size, size))
        except Unreadable as error:
            log.warning("%s is not used: %s", file, error)
            continue
        labels.append(_objects(layout.labels(file)))
    if not labels:
        raise ConfigError(f"{' and '.join(map(str, folders))} has no readable image")
    return images[: len(labels)], labels


def _objects(file: Path) -> Boxes:
    """The lines of a label file: class, centre, width and height.

    Raises:
        ConfigError: a line of another form, a box outside the image or without area, or a file that is no text.
    """
    rows = []
    for number, line in enumerate(layouts.text(file).splitlines() if file.exists() else (), 1):
        try:
            row = [float(word) for word in line.split()]
        except ValueError:
            row = []
        inside = len(row) == FIELDS and 0 <= row[0] < 2**31 and row[0].is_integer() and \
            all(0 <= v <= 1 for v in row[1:]) and all(row[3:])
        if line.strip() and not inside:
            raise ConfigError(f"{file}, line {number}: {line[:60]!r} given; expected a class number, and the centre, "
                              "width and height of a box as shares in [0, 1], the last two above 0")
        rows += [row] if row else []
    return rows


def _classes(layout: layouts.Layout, seen: int) -> tuple[str, ...]:
    """Names of the classes, by number.

    Raises:
        ConfigError: labels beyond them.
    """
    if layout.names is None and seen > CLASS_LIMIT:
        raise ConfigError(f"{layout.top}: a label of class {seen - 1}; expected less than {CLASS_LIMIT:,}, or the "
                          "names of all classes in data.yaml, names.json or classes.txt")
    names = tuple(map(str, range(seen))) if layout.names is None else layout.names
    if seen > len(names):
        raise ConfigError(f"{layout.top}: a label of class {seen - 1}, but {layout.source} has names for {len(names)} "
                          "classes")
    return names


def _data(images: np.ndarray, labels: list[Boxes], classes: tuple[str, ...], sizes: tuple[int, int],
          name: str) -> ArrayDataset:
    size, most = sizes
    boxes = torch.full((len(images), most, FIELDS), -1.0)
    for i, rows in enumerate(labels):
        if rows:
            given = torch.tensor(rows)
            corners = (box_convert(given[:, 1:], "cxcywh", "xyxy") * size).clamp(0, size)
            boxes[i, : len(rows)] = torch.cat([given[:, :1], corners], 1)
    return ArrayDataset(images, _largest(boxes), classes, name, boxes=boxes)


def _largest(boxes: Tensor) -> Tensor:
    """The class of each image's largest object, 0 without one."""
    areas = (boxes[..., 3] - boxes[..., 1]) * (boxes[..., 4] - boxes[..., 2])
    areas = torch.where(boxes[..., 0] >= 0, areas, -torch.ones_like(areas))
    return boxes[torch.arange(len(boxes)), areas.argmax(1), 0].long().clamp(min=0)
