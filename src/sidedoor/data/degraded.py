"""Degraded images as inputs and the photographs behind them as targets, for restoration and reconstruction.

The noise of a sample is keyed by its position, so that every evaluation sees the same. Where the noise is simulated,
each epoch of training draws it anew by (position, epoch); a measurement was made once. Photographs stay in
8 bits; inputs are made on the device.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from sidedoor.core import random
from sidedoor.data.base import Dataset
from sidedoor.errors import ConfigError
from sidedoor.forward_operators.base import Operator
from sidedoor.types import MEASUREMENT, PHOTO, Batch, Images, Index, Space, from_levels, to_levels


class Degrading(Protocol):
    """How a photograph becomes an input: a frozen dataclass, since its repr is part of fingerprints.

    Attributes:
        scale: the factor by which the input is smaller.
        fresh: each epoch of training draws the noise anew.
        space: the values that inputs take.
    """

    @property
    def scale(self) -> int: ...

    @property
    def fresh(self) -> bool: ...

    @property
    def space(self) -> Space: ...

    def __call__(self, photographs: Images, index: Index, stream: int) -> Images: ...


@dataclass(frozen=True)
class Degradation:
    """How a photograph becomes an input.

    Args:
        sigma: standard deviation of the added Gaussian noise, in 8-bit levels.
        scale: the factor by which the input is smaller, by bicubic interpolation with antialiasing.
        stored: the input is kept as an 8-bit file, clipped and rounded; noise is otherwise left as it is.
    """

    fresh: ClassVar[bool] = True

    sigma: float
    scale: int
    stored: bool

    @property
    def space(self) -> Space:
        return MEASUREMENT if self.sigma and not self.stored else PHOTO

    def __call__(
        self, photographs: Images, index: Index, stream: int
    ) -> Float[Tensor, "b c h//{self.scale} w//{self.scale}"]:
        x = photographs if self.scale == 1 else smaller(photographs, self.scale)
        if self.sigma:
            x = x + self.sigma / 255 * random.normal(stream, index, *x.shape[1:])
        kept = self.stored or (self.scale > 1 and not self.sigma)
        return from_levels(to_levels(x.clamp(0, 1), PHOTO).round_(), PHOTO) if kept else x


@dataclass(frozen=True)
class Measurement:
    """The measurements of a photograph, brought back to an image: Aᵀ(A x + v).

    Args:
        sigma: standard deviation of the Gaussian noise v, in 8-bit levels.
    """

    scale: ClassVar[int] = 1
    fresh: ClassVar[bool] = False
    space: ClassVar[Space] = MEASUREMENT

    operator: Operator
    sigma: float

    def __call__(self, photographs: Images, index: Index, stream: int) -> Images:
        y = self.operator.measure(photographs)
        if self.sigma:
            y = y + self.sigma / 255 * random.normal(stream, index, *y.shape[1:])
        return self.operator.adjoint(y, photographs.shape[2:])


class Degraded(Dataset):
    """Pairs of a degraded input and its photograph; labels, classes and groups are those of the photographs.

    Raises:
        ConfigError: the scale does not divide the photographs' sides.
    """

    def __init__(self, photographs: Dataset, degradation: Degrading, epoch: int | None = None):
        channels, height, width = photographs.shape
        scale = degradation.scale
        if height % scale or width % scale:
            raise ConfigError(f"images of {height}×{width} given; expected sides that the scale {scale} divides")
        self.shape = (channels, height // scale, width // scale)
        self.classes, self.targets, self.groups = photographs.classes, photographs.targets, photographs.groups
        self.boxes, self.lazy = photographs.boxes, photographs.lazy
        self.space = degradation.space
        self._photographs, self._degradation, self._epoch = photographs, degradation, epoch
        self._stream = random.seed_of(0, "noise" if epoch is None else f"noise/{epoch}")

    def photographs(self) -> Dataset:
        """The photographs with their labels."""
        return self._photographs

    def rows(self, index: Int[Tensor, "b"]) -> Float[Tensor, "b c h w"]:
        return self.fetch(index).x

    def position(self, index: Int[Tensor, "b"]) -> Int[Tensor, "b"]:
        return self._photographs.position(index)

    def fetch(self, index: Int[Tensor, "b"], device: torch.device | str = "cpu") -> Batch:
        y, _, position = self._photographs.fetch(index, device)
        return Batch(self._degradation(y, position, self._stream), y, position)

    def staged(self, device: torch.device) -> Dataset:
        return Degraded(self._photographs.staged(device), self._degradation, self._epoch)

    def at(self, epoch: int) -> Dataset:
        return Degraded(self._photographs, self._degradation, epoch if self._degradation.fresh else None)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self._photographs.fingerprint()}{self._degradation}".encode()).hexdigest()


class Labelled(Dataset):
    """The photographs behind pairs, with their labels, to train a classifier on."""

    def __init__(self, pairs: Dataset, scale: int = 1):
        channels, height, width = pairs.shape
        self.shape = (channels, height * scale, width * scale)
        self.classes, self.targets, self.groups, self.lazy = pairs.classes, pairs.targets, pairs.groups, pairs.lazy
        self.boxes = pairs.boxes
        self._pairs = pairs

    def rows(self, index: Int[Tensor, "b"]) -> Float[Tensor, "b c h w"]:
        return self.fetch(index).x

    def position(self, index: Int[Tensor, "b"]) -> Int[Tensor, "b"]:
        return self._pairs.position(index)

    def fetch(self, index: Int[Tensor, "b"], device: torch.device | str = "cpu") -> Batch:
        _, photographs, position = self._pairs.fetch(index, device)
        return Batch(photographs, self.targets[index.cpu()].to(device), position)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"labelled {self._pairs.fingerprint()}".encode()).hexdigest()


def smaller(x: Images, scale: int) -> Float[Tensor, "b c h//{scale} w//{scale}"]:
    """Images downsampled by an integer factor, bicubic with antialiasing, not clipped."""
    size = (x.shape[2] // scale, x.shape[3] // scale)
    return functional.interpolate(x, size=size, mode="bicubic", antialias=True, align_corners=False)
