"""Generated scenes of coloured discs, squares and triangles with their boxes, for detectors: no download.

Objects stand on a background of two colours and soft texture, in colours of their own, do not overlap much, and are
drawn four times as large first, so that their edges are smooth. The label of an image is the class of its largest
object.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torchvision.ops import box_iou

from sidedoor.core.random import seed_of
from sidedoor.data.base import ArrayDataset, Splits
from sidedoor.data.root import Where, self_contained
from sidedoor.errors import ConfigError
from sidedoor.method import Count

CLASSES = ("disc", "square", "triangle")
OVERSIZE = 4
SMALLEST, LARGEST = 0.14, 0.42
"""Sides of objects, as shares of the image's."""
TRIES = 20
QUICK: dict[str, Any] = {"size": 32, "train": 60, "test": 20}
"""Parameters with which it is built and run in a second."""


@self_contained
def scenes(where: Where, size: Count = 64, objects: Count = 4, train: Count = 1000, test: Count = 300) -> Splits:
    """Generate the two parts; the same arguments give the same pixels.

    Args:
        size: pixels a side.
        objects: most objects in an image; there is at least one.
        train: number of training images.
        test: number of test images.

    Raises:
        ConfigError: images below 32 pixels a side.
    """
    if size < 32:
        raise ConfigError(f"scenes: images of {size} pixels a side given; expected at least 32, to tell shapes apart")
    return Splits(_part("train", train, size, objects), _part("test", test, size, objects))


def _part(name: str, count: int, size: int, objects: int) -> ArrayDataset:
    rng = np.random.default_rng(seed_of(0, f"scenes/{name}"))
    drawn = [_scene(rng, size, objects) for _ in range(count)]
    boxes = torch.stack([torch.from_numpy(found) for _, found in drawn])
    areas = (boxes[..., 3] - boxes[..., 1]) * (boxes[..., 4] - boxes[..., 2])
    labels = boxes[torch.arange(count), areas.argmax(1), 0].long()
    return ArrayDataset(np.stack([image for image, _ in drawn]), labels.tolist(), CLASSES, "scenes", boxes=boxes)


def _scene(rng: np.random.Generator, size: int, objects: int) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 (3, size, size), float32 (objects, 5))."""
    ground, canvas = _ground(rng, size), Image.new("RGBA", (size * OVERSIZE,) * 2)
    draw, boxes = ImageDraw.Draw(canvas), np.full((objects, 5), -1, np.float32)
    for i in range(rng.integers(1, objects + 1)):
        box = _place(rng, size, boxes[:i])
        if box is None:
            break
        kind = int(rng.integers(len(CLASSES)))
        boxes[i] = (kind, *box)
        _draw(draw, kind, [OVERSIZE * float(v) for v in box], _colour(rng, ground))
    layer = np.asarray(canvas.resize((size, size), Image.Resampling.BOX), np.float32) / 255
    alpha = layer[..., 3:]
    # BOX averages colours without their alpha, so undo what empty pixels took away.
    shown = np.divide(layer[..., :3], alpha, out=np.zeros_like(layer[..., :3]), where=alpha > 0).clip(0, 1)
    image = ground * (1 - alpha) + shown * alpha + rng.normal(0, 0.015, ground.shape)
    return (image.clip(0, 1) * 255).round().astype(np.uint8).transpose(2, 0, 1), boxes


def _ground(rng: np.random.Generator, size: int) -> np.ndarray:
    """A background (size, size, 3) in [0, 1]: from one colour to another, under soft texture."""
    one, other = rng.uniform(0.15, 0.85, (2, 3))
    angle, axis = rng.uniform(0, 2 * np.pi), np.linspace(-0.5, 0.5, size)
    along = (np.cos(angle) * axis + np.sin(angle) * axis[:, None] + 0.75) / 1.5
    coarse = Image.fromarray(rng.normal(0, 0.08, (size // 8, size // 8)).astype(np.float32))
    texture = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    return np.asarray(one + (other - one) * along[..., None] + texture[..., None], np.float32)


def _place(rng: np.random.Generator, size: int, taken: np.ndarray) -> tuple[float, float, float, float] | None:
    """A square box that overlaps the others by less than a tenth, or None where none was found."""
    for _ in range(TRIES):
        side = float(rng.uniform(SMALLEST, LARGEST)) * size
        left, top = rng.uniform(0, size - side, 2).tolist()
        box = (left, top, left + side, top + side)
        if not len(taken) or bool((box_iou(torch.tensor([box]), torch.from_numpy(taken[:, 1:])) < 0.1).all()):
            return box
    return None


def _draw(draw: ImageDraw.ImageDraw, kind: int, box: list[float], colour: tuple[int, int, int]) -> None:
    left, top, right, bottom = box
    if CLASSES[kind] == "disc":
        draw.ellipse(box, fill=colour)
    elif CLASSES[kind] == "square":
        draw.rectangle(box, fill=colour)
    else:
        draw.polygon([((left + right) / 2, top), (right, bottom), (left, bottom)], fill=colour)


def _colour(rng: np.random.Generator, ground: np.ndarray) -> tuple[int, int, int]:
    """A colour unlike the background's mean."""
    mean = ground.mean((0, 1))
    while True:
        colour = rng.uniform(0, 1, 3)
        if np.abs(colour - mean).max() > 0.3:
            red, green, blue = (int(255 * v) for v in colour)
            return red, green, blue
