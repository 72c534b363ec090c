"""Generated clips of a moving object, made of photographs with annotated objects: no video is needed.

In half of the clips a virtual camera pans, zooms and turns over a still photograph around a real object; in the others
an object, cut out by a soft super-ellipse, moves over another photograph under a moving camera. Places, sizes, angles
and light walk with momentum. Some clips have a second cut-out that passes behind the object, some a bar that passes in
front of it, some motion blur.

Training and test clips are made of the training and the test photographs of the two sources, and no photograph is in
both. Rows are frames, groups are clips.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from sidedoor import registry
from sidedoor.core.random import seed_of
from sidedoor.data.base import ArrayDataset, Dataset, Splits, stored, unit
from sidedoor.data.jpeg import compressed
from sidedoor.data.root import Where, self_contained
from sidedoor.errors import ConfigError
from sidedoor.method import Bounds, Count, NonNegative, Share, Whole
from sidedoor.types import PHOTO, Images

QUICK: dict[str, Any] = {"train": 6, "test": 3, "frames": 4, "test_frames": 4, "height": 48, "width": 64,
                         "objects": "scenes:32", "backgrounds": "scenes:32"}
"""Parameters with which it is built and run in a second."""
SHORT: dict[str, dict[str, Any]] = {
    "scenes": {"size": 160, "train": 120, "test": 40}, "photos": {"size": 200},
    "patches": {"size": 320, "per_photo": 1, "test_per_photo": 1}}
"""What sources are asked for beside the argument behind their colon."""
SMALLEST, LARGEST = 0.015, 0.35
"""Areas of objects that are used, as shares of their photographs."""
SIDES = (0.16, 0.4)
"""Sides of objects in clips, as shares of a frame's height."""
FILLED, BEYOND = 1.3, 0.1
"""Size of a still photograph over that of frames, at least, and the share of a frame that may lie beyond its edge,
where it is mirrored: with more of it there would be mirrored objects.
"""
SOFT = 0.15
"""Width of a cut-out's edge, as a share of its half side."""


@dataclass(frozen=True)
class Manner:
    """How clips are made.

    Args:
        size: (height, width) of frames.
        distractor, occluder, blur: shares of clips that have one.
        noise: standard deviation of Gaussian noise, in 8-bit levels.
        jpeg: quality by which frames are compressed; 0: not at all.
    """

    size: tuple[int, int]
    distractor: float
    occluder: float
    blur: float
    noise: float = 0.0
    jpeg: int = 0


@self_contained
def moving(where: Where, objects: str = "scenes", backgrounds: str = "photos", train: Count = 240, test: Count = 24,
           frames: Count = 12, test_frames: Count = 40, height: Count = 180, width: Count = 240,
           distractor: Share = 0.3, occluder: Share = 0.2, blur: Share = 0.3, test_noise: NonNegative = 0.0,
           test_jpeg: Annotated[int, Bounds(0, 100)] = 0, seed: Whole = 0) -> Splits:
    """Generate both parts; the same arguments and photographs give the same pixels.

    Args:
        objects: a data set of photographs with boxes, "scenes" or "yolo:PATH".
        backgrounds: one of photographs, such as "photos", "patches" or "yolo:PATH".
        train: clips for training.
        test: clips for testing.
        frames: of each training clip.
        test_frames: of each test clip.
        height: of frames.
        width: of frames.
        distractor: share of clips with a second object.
        occluder: share of clips in which something passes in front of the object.
        blur: share of clips with motion blur.
        test_noise: standard deviation of noise in test clips, in 8-bit levels, so that they differ from training.
        test_jpeg: quality by which test clips are compressed; 0: not at all.
        seed: of all that is drawn.

    Raises:
        ConfigError: a source without boxes, or without any object of a fitting size.
        CannotComplete: a source is not there.
    """
    found = _source(where, objects)
    behind = found if backgrounds == objects else _source(where, backgrounds)
    plain = Manner((height, width), distractor, occluder, blur)
    harder = Manner((height, width), distractor, occluder, blur, test_noise, test_jpeg)
    return Splits(_part("train", (found.train, behind.train), (train, frames), plain, seed),
                  _part("test", (found.test, behind.test), (test, test_frames), harder, seed))


def _source(where: Where, given: str) -> Splits:
    name, colon, argument = given.partition(":")
    known = registry.parameters("data", name)
    options = {k: v for k, v in SHORT.get(name, {}).items() if k in known}
    if colon and known:
        options[next(iter(known))] = int(argument) if argument.isdigit() else argument
    splits: Splits = registry.make("data", {"name": name, **options})(where)
    return splits


def _part(name: str, sources: tuple[Dataset, Dataset], counts: tuple[int, int], manner: Manner, seed: int) \
        -> ArrayDataset:
    """Clips of a number of frames."""
    objects, (clips, frames) = _objects(sources[0]), counts
    images = torch.empty(clips * frames, 3, *manner.size, dtype=torch.uint8)
    boxes = torch.zeros(clips * frames, 1, 5)
    for k in range(clips):
        rng = np.random.default_rng(seed_of(seed, f"moving/{name}/{k}"))
        clip = _Clip(rng, sources, objects, frames, manner)
        rows = slice(k * frames, (k + 1) * frames)
        images[rows], boxes[rows, 0, 1:] = clip.drawn()
    label = torch.zeros(clips * frames, dtype=torch.int64)
    groups = torch.arange(clips).repeat_interleave(frames)
    return ArrayDataset(images, label, ("object",), "moving", groups=groups, boxes=boxes)


def _objects(data: Dataset) -> Float[Tensor, "n 5"]:
    """Rows and boxes of all objects of a fitting size."""
    if data.boxes is None:
        raise ConfigError("moving: `objects` is a data set without boxes; expected one with boxes, such as \"scenes\" "
                          "or \"yolo:PATH\"")
    size = data.boxes[..., 3:] - data.boxes[..., 1:3]
    area = size.prod(-1) / (data.shape[1] * data.shape[2])
    slim = size.amax(-1) > 4 * size.amin(-1).clamp(min=1e-6)
    row, which = torch.nonzero((data.boxes[..., 0] >= 0) & (area > SMALLEST) & (area < LARGEST) & ~slim,
                               as_tuple=True)
    if not len(row):
        raise ConfigError(f"moving: no object covers {SMALLEST:.1%} to {LARGEST:.0%} of its photograph; give others")
    return torch.cat([row[:, None].float(), data.boxes[row, which, 1:]], 1)


@dataclass(frozen=True)
class _Cutout:
    """An object of a photograph and how it goes through a clip.

    Args:
        photograph: (1, 3, h, w).
        box: of the object in it.
        centre: of the object in each frame.
        zoom: pixels of the frame over pixels of the photograph.
        angle: in radians.
    """

    photograph: Images
    box: Float[Tensor, "4"]
    centre: Float[Tensor, "t 2"]
    zoom: Float[Tensor, "t"]
    angle: Float[Tensor, "t"]

    def boxes(self) -> Float[Tensor, "t 4"]:
        half = (self.box[2:] - self.box[:2]) / 2 * self.zoom[:, None]
        return torch.cat([self.centre - half, self.centre + half], 1)

    def places(self, size: tuple[int, int]) -> Float[Tensor, "t h w 2"]:
        """What pixel of the photograph each pixel of the frames shows."""
        middle = (self.box[:2] + self.box[2:]) / 2
        return _seen(size, self.centre, self.zoom, self.angle, middle)


@dataclass(frozen=True)
class _Clip:
    rng: np.random.Generator
    sources: tuple[Dataset, Dataset]
    objects: Float[Tensor, "n 5"]
    frames: int
    manner: Manner

    def drawn(self) -> tuple[Tensor, Tensor]:
        """(frames in 8 bits, boxes)."""
        rng, manner = self.rng, self.manner
        still = rng.uniform() < 0.5
        target = self._cutout(still=still)
        frames = _sampled(target.photograph, target.places(manner.size)) if still else self._background()
        if distracted := rng.uniform() < manner.distractor:
            frames = self._pasted(frames, self._cutout())
        if distracted or not still:
            frames = self._pasted(frames, target)
        frames = self._occluded(frames) if rng.uniform() < manner.occluder else frames
        frames = self._blurred(frames) if rng.uniform() < manner.blur else frames
        light = self._walk(-0.25, 0.25, 0.05).exp()[:, None, None, None]
        frames = frames * light
        if manner.noise:
            noise = torch.from_numpy(rng.standard_normal(frames.shape, dtype=np.float32))
            frames = frames + manner.noise / 255 * noise
        frames = frames.clamp(0, 1)
        frames = compressed(frames, manner.jpeg) if manner.jpeg else frames
        return stored(frames, PHOTO), target.boxes()

    def _walk(self, low: float, high: float, speed: float) -> Float[Tensor, "t"]:
        """A walk with momentum, mirrored at two bounds.

        Args:
            speed: standard deviation of a step.
        """
        steps = self.rng.normal(0, 1, self.frames)
        velocity, place = steps[0], np.empty(self.frames)
        place[0] = self.rng.uniform(low, high)
        for t in range(1, self.frames):
            velocity = 0.8 * velocity + 0.6 * steps[t]
            place[t] = place[t - 1] + speed * velocity
            if not low <= place[t] <= high:
                velocity = -velocity
                place[t] = min(max(place[t], low), high)
        return torch.from_numpy(place.astype(np.float32))

    def _cutout(self, *, still: bool = False) -> _Cutout:
        """A random object; its photograph is to fill the frames if it is a still one."""
        height, width = self.manner.size
        row, *box = self.objects[self.rng.integers(len(self.objects))].tolist()
        photograph = unit(self.sources[0].rows(torch.tensor([int(row)])), PHOTO)
        photograph = photograph.expand(-1, 3, -1, -1)
        own = ((box[2] - box[0]) * (box[3] - box[1])) ** 0.5
        side = height * float(np.exp(self.rng.uniform(*np.log(SIDES))))
        whole = (photograph.shape[3], photograph.shape[2])
        if still:
            side = max(side, own * FILLED * max(width / whole[0], height / whole[1]))
        centre = []
        for axis, length in enumerate((width, height)):
            low, high = 0.6 * side, length - 0.6 * side
            if still:
                middle, zoom = (box[axis] + box[axis + 2]) / 2, side / own
                low = max(low, (1 - BEYOND) * length - (whole[axis] - middle) * zoom)
                high = min(high, middle * zoom + BEYOND * length)
            low, high = (low, high) if low < high else ((low + high) / 2,) * 2
            centre.append(self._walk(low, high, 0.1 * side))
        zoom = self._walk(0.0 if still else -0.3, 0.3, 0.025).exp() * (side / own)
        return _Cutout(photograph, torch.tensor(box), torch.stack(centre, 1), zoom, self._walk(-0.15, 0.15, 0.02))

    def _background(self) -> Float[Tensor, "t 3 h w"]:
        """A photograph under a moving camera, which it always fills."""
        height, width = self.manner.size
        data = self.sources[1]
        photograph = unit(data.rows(torch.from_numpy(self.rng.integers(len(data), size=1))), PHOTO)
        photograph = photograph.expand(-1, 3, -1, -1)
        tall, wide = photograph.shape[2:]
        zoom = max(height / tall, width / wide) * self._walk(0.15, 0.6, 0.015).exp()
        middle = torch.tensor([wide / 2, tall / 2])
        spare = torch.tensor([wide, tall]) - torch.tensor([width, height]) / zoom.max()
        pan = torch.stack([self._walk(-0.5, 0.5, 0.04) for _ in range(2)], 1) * spare.clamp(min=0)
        centre = torch.tensor([width / 2, height / 2]) - pan * zoom[:, None]
        return _sampled(photograph, _seen(self.manner.size, centre, zoom, self._walk(-0.1, 0.1, 0.01), middle))

    def _pasted(self, frames: Images, cutout: _Cutout) -> Images:
        """With a cut-out in front, under a soft super-ellipse."""
        places = cutout.places(self.manner.size)
        middle, half = (cutout.box[:2] + cutout.box[2:]) / 2, (cutout.box[2:] - cutout.box[:2]) / 2
        boxes, reach = cutout.boxes(), float(half.max() * cutout.zoom.max()) * 0.2  # it is turned by a little
        left, top = (boxes.amin(0)[:2] - reach).floor().long().clamp(min=0).tolist()
        right, bottom = (boxes.amax(0)[2:] + reach).ceil().long().tolist()
        there = (slice(None), slice(top, bottom), slice(left, right))
        radius = ((places[there] - middle) / half).square().square().sum(-1).sqrt().sqrt()
        alpha = ((1 - radius) / SOFT).clamp(0, 1)[:, None]
        pasted = frames.clone()
        where = (slice(None), slice(None), *there[1:])
        pasted[where] = torch.lerp(frames[where], _sampled(cutout.photograph, places[there]), alpha)
        return pasted

    def _occluded(self, frames: Images) -> Images:
        """With an upright bar in one colour that passes through."""
        width = self.manner.size[1]
        half, colour = float(self.rng.uniform(0.02, 0.05)) * width, self.rng.uniform(0.1, 0.9, 3).astype(np.float32)
        start, end = self.rng.permutation([-0.1, 1.1]) * width
        place = torch.linspace(float(start), float(end), self.frames)[:, None, None, None]
        covered = ((torch.arange(width) + 0.5 - place).abs() < half).float()
        return torch.lerp(frames, torch.from_numpy(colour)[:, None, None].expand_as(frames), covered)

    def _blurred(self, frames: Images) -> Images:
        """Averaged along one axis."""
        reach = int(self.rng.integers(1, 4))
        size = (2 * reach + 1, 1) if self.rng.uniform() < 0.5 else (1, 2 * reach + 1)
        edges = (reach, reach, 0, 0) if size[0] == 1 else (0, 0, reach, reach)
        return functional.avg_pool2d(functional.pad(frames, edges, mode="replicate"), size, 1)


def _seen(size: tuple[int, int], centre: Float[Tensor, "t 2"], zoom: Float[Tensor, "t"], angle: Float[Tensor, "t"],
          middle: Float[Tensor, "2"]) -> Float[Tensor, "t h w 2"]:
    """The places of a photograph that the pixels of frames show, its `middle` at `centre` of each frame."""
    down, across = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    x, y = (pixel - centre[:, k, None, None] for k, pixel in enumerate((across, down)))
    cos, sin = ((part / zoom)[:, None, None] for part in (angle.cos(), angle.sin()))
    return torch.stack([cos * x - sin * y, sin * x + cos * y], -1) + middle


def _sampled(photograph: Images, places: Float[Tensor, "t u v 2"]) -> Float[Tensor, "t c u v"]:
    """A photograph at places in pixels, mirrored at its edges."""
    t, height, width, _ = places.shape
    size = torch.tensor([photograph.shape[3], photograph.shape[2]])
    grid = (2 * places / size - 1).reshape(1, t * height, width, 2)
    found = functional.grid_sample(photograph, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return found.reshape(photograph.shape[1], t, height, width).transpose(0, 1)
