"""Data augmentation of whole batches on the device; each sample has its own draw from torch's generators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from sidedoor.errors import ConfigError, unknown
from sidedoor.image.geometry import Edges, turned
from sidedoor.method import Count, Method, NonNegative, Positive, Share
from sidedoor.types import Batch


@dataclass(frozen=True)
class Crop(Method):
    """Shift each image by up to `padding` pixels; what enters is black.

    Raises:
        ConfigError: the targets are images, which would not be shifted along.
    """

    padding: Count = 2

    def __call__(self, batch: Batch) -> Batch:
        if batch.y.ndim in (2, 4):
            raise ConfigError("augmentation 'crop' shifts inputs only, but the targets are images or boxes; leave it "
                              "out")
        b, _, height, width = batch.x.shape
        pad = self.padding
        padded = functional.pad(batch.x, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
        offset = torch.randint(0, 2 * pad + 1, (2, b, 1), device=batch.x.device)
        rows = offset[0] + torch.arange(height, device=batch.x.device)
        columns = offset[1] + torch.arange(width, device=batch.x.device)
        image = torch.arange(b, device=batch.x.device)
        shifted = padded[image[:, None, None], rows[:, :, None], columns[:, None, :]]
        return batch._replace(x=shifted.permute(0, 3, 1, 2).contiguous())


@dataclass(frozen=True)
class Flip(Method):
    """Mirror each image left to right with probability 1/2, and a target that is an image with it.

    Raises:
        ConfigError: the targets are boxes.
    """

    def __call__(self, batch: Batch) -> Batch:
        if batch.y.ndim == 2:
            raise ConfigError("augmentation 'flip' mirrors inputs only, but the targets are boxes; the task mirrors "
                              "both by itself, so leave it out")
        mirrored = torch.rand(len(batch.x), 1, 1, 1, device=batch.x.device) < 0.5
        y = torch.where(mirrored, batch.y.flip(3), batch.y) if batch.y.ndim == 4 else batch.y
        return batch._replace(x=torch.where(mirrored, batch.x.flip(3), batch.x), y=y)


@dataclass(frozen=True)
class Noise(Method):
    """Add Gaussian noise of its own strength to each image and clip it to [0, 1]; targets stay as they are.

    Args:
        most: largest standard deviation, in 8-bit levels; each is drawn uniformly from 0 to it.
    """

    most: Positive = 16.0

    def __call__(self, batch: Batch) -> Batch:
        deviation = torch.rand(len(batch.x), 1, 1, 1, device=batch.x.device) * self.most / 255
        return batch._replace(x=(batch.x + deviation * torch.randn_like(batch.x)).clamp(0, 1))


@dataclass(frozen=True)
class Jitter(Method):
    """Change the brightness and the contrast of each image by factors of their own, and clip it to [0, 1].

    Args:
        most: largest change, as a share of 1; contrast is about the mean of the image.
    """

    most: Share = 0.2

    def __call__(self, batch: Batch) -> Batch:
        b = len(batch.x)
        brightness, contrast = 1 + self.most * (2 * torch.rand(2, b, 1, 1, 1, device=batch.x.device) - 1)
        lit = batch.x * brightness
        mean = lit.mean((1, 2, 3), keepdim=True)
        return batch._replace(x=torch.lerp(mean, lit, contrast).clamp(0, 1))


@dataclass(frozen=True)
class Affine(Method):
    """Turn, resize and move the picture in each image.

    Args:
        degrees: largest rotation, either way.
        shift: largest move along each axis, as a share of the side.
        smallest, largest: bounds of the factor by which the picture is resized.
        edges: what enters, black or the nearest pixel.

    Raises:
        ConfigError: sizes in the wrong order, or targets that are images, which would not be moved along.
    """

    degrees: NonNegative = 15.0
    shift: Share = 0.06
    smallest: Positive = 0.875
    largest: Positive = 1.143
    edges: Edges = "black"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smallest > self.largest:
            raise ConfigError(f"sizes from {self.smallest} to {self.largest} given; expected the smaller one first")

    def __call__(self, batch: Batch) -> Batch:
        if batch.y.ndim in (2, 4):
            raise ConfigError("augmentation 'affine' moves inputs only, but the targets are images or boxes; leave it "
                              "out")
        size, angle, *move = torch.rand(4, len(batch.x), device=batch.x.device)
        scale = 1 / (self.smallest + (self.largest - self.smallest) * size)
        across, down = (2 * self.shift * (2 * share - 1) for share in move)
        return batch._replace(x=turned(batch.x, self.degrees * (2 * angle - 1), scale, torch.stack([across, down], 1),
                                       self.edges))


@dataclass(frozen=True)
class Chain(Method):
    """Augmentations one after another."""

    steps: tuple[Callable[[Batch], Batch], ...] = ()

    def __call__(self, batch: Batch) -> Batch:
        for step in self.steps:
            batch = step(batch)
        return batch


AUGMENTATIONS: dict[str, Callable[[], Callable[[Batch], Batch]]] = {
    "crop": Crop, "flip": Flip, "noise": Noise, "jitter": Jitter, "affine": Affine}


def augmentation(names: tuple[str, ...]) -> Callable[[Batch], Batch] | None:
    """The augmentations of a specification, in order; None for none.

    Raises:
        ConfigError: an unknown name.
    """
    for name in names:
        if name not in AUGMENTATIONS:
            raise unknown("augmentation", name, AUGMENTATIONS)
    return Chain(tuple(AUGMENTATIONS[name]() for name in names)) if names else None
