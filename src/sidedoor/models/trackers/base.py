"""What every tracker is: features, a state made of the first frame, a response map, and the geometry of its crops.

A tracker is given the object's box in one frame. It cuts a template there and, in every later frame, a search crop
around where the object was; the peak of its response says where the object is now.

Boxes are (left, top, right, bottom) in pixels, edges of pixels being whole numbers: the first pixel covers 0 to 1.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.errors import ConfigError, NotApplicable
from sidedoor.image.geometry import template_side
from sidedoor.models.base import Shape
from sidedoor.types import Images

State = tuple[Tensor, ...]
"""What a tracker knows of objects, one row each."""


@dataclass(frozen=True)
class Geometry:
    """Where a tracker cuts its crops, and how it reads its response.

    Args:
        template: pixels a side of the template, the middle of a crop at search scale.
        search: pixels a side of the search crop.
        square: crops are squares of side sqrt((w + p) (h + p)) * search / template, p = (w + h) / 2, around a box of
            w by h; else as wide and high as `padding` times the box, stretched to a square.
        padding: see `square`.
        stride: pixels of the search crop from one cell of the response to the next.
        upsample: how many times finer the peak is read, by bicubic interpolation.
        scales: sizes at which each search crop is cut, relative to the last; the middle one is 1.
        penalty: factor of the response at the other scales.
        influence: weight of a Hann window in the response, in [0, 1].
        scale_rate: how far the size moves to the best scale, in [0, 1].
        update_rate: weight of each new frame in the state, in [0, 1]; 0: the state stays that of the first frame.
    """

    template: int
    search: int
    square: bool
    stride: int
    upsample: int
    scales: tuple[float, ...]
    penalty: float
    influence: float
    scale_rate: float
    padding: float = 3.0
    update_rate: float = 0.0

    def window(self, size: Float[Tensor, "... 2"]) -> Float[Tensor, "... 2"]:
        """Width and height, in pixels of a frame, of the search crop around boxes of a width and height."""
        if self.square:
            return template_side(size)[..., None].expand(size.shape) * (self.search / self.template)
        return size * self.padding


class Tracker(nn.Module, ABC):
    """A network that follows objects. Images come in [0, 1]; conversions are its first layer.

    Attributes:
        geometry: of its crops.
    """

    geometry: Geometry

    @abstractmethod
    def features(self, x: Images) -> Float[Tensor, "b d u v"]:
        """Of templates or search crops."""

    @abstractmethod
    def start(self, template: Images) -> State:
        """What is known of each object once its template was seen, (b, c, template, template)."""

    @abstractmethod
    def respond(self, state: State, x: Float[Tensor, "n c s s"]) -> Float[Tensor, "n r r"]:
        """How much each place of search crops looks like the object; the middle cell is the crop's centre.

        Args:
            state: of b objects.
            x: n = k b crops, the k of the first object first.
        """

    @abstractmethod
    def loss(self, response: Float[Tensor, "b r r"], offset: Float[Tensor, "b 2"]) -> Float[Tensor, "b"]:
        """What training minimises.

        Args:
            offset: of the object's centre from that of the search crop, to the right and down, in pixels of the crop.
        """

    def update(self, state: State, template: Images) -> State:
        """The state with what templates at the new places say; only where `geometry.update_rate` is above 0."""
        return state

    def forward(self, x: Float[Tensor, "b channels s s"]) -> Float[Tensor, "b r r"]:
        """The response to pairs: the first half of the channels are the template's surroundings, the rest the search
        crop.
        """
        template, search = x.chunk(2, 1)
        return self.respond(self.start(self.template(template)), search)

    def template(self, x: Float[Tensor, "b c s s"]) -> Float[Tensor, "b c z z"]:
        """The template in the middle of crops at search scale."""
        edge = (x.shape[2] - self.geometry.template) // 2
        return x[:, :, edge : x.shape[2] - edge, edge : x.shape[3] - edge] if edge else x


class Peak(NamedTuple):
    """Where responses are highest.

    Args:
        scale: which of the scales, 0 the first.
        offset: from the crop's centre, to the right and down, in pixels of the crop.
    """

    scale: Int[Tensor, "b"]
    offset: Float[Tensor, "b 2"]


def locate(geometry: Geometry, response: Float[Tensor, "b k r r"]) -> Peak:
    """Read responses at k scales: the middle scale is favoured by the penalty, the middle of the crop by the window.

    The penalty is for positive responses: it would raise negative ones.
    """
    b, k, r, _ = response.shape
    fine = _finer(r, geometry.upsample).to(response)
    maps = fine @ response @ fine.T
    penalty = torch.full((k,), geometry.penalty if k > 1 else 1.0, device=maps.device)
    penalty[k // 2] = 1.0
    maps = torch.where(maps > 0, maps * penalty[:, None, None], maps)
    scale = maps.flatten(2).amax(2).argmax(1)
    chosen = maps[torch.arange(b, device=maps.device), scale]
    side = chosen.shape[-1]
    if geometry.influence:
        chosen = chosen - chosen.amin((1, 2), keepdim=True)
        chosen = chosen / (chosen.sum((1, 2), keepdim=True) + 1e-16)
        chosen = (1 - geometry.influence) * chosen + geometry.influence * _hann(side).to(chosen)
    flat = chosen.flatten(1).argmax(1)
    place = torch.stack([flat % side, flat // side], 1).float()
    return Peak(scale, (place - (side - 1) / 2) / geometry.upsample * geometry.stride)


def tracker_in(model: nn.Module) -> Tracker:
    """The tracker in a module, which may be wrapped.

    Raises:
        NotApplicable: there is none.
    """
    found = next((module for module in model.modules() if isinstance(module, Tracker)), None)
    if found is None:
        raise NotApplicable(f"{type(model).__name__} has no tracker in it; see `sidedoor list models`")
    return found


def require_crop(name: str, crop: Shape, side: int) -> None:
    """Check that a network is given the search crops that it is for.

    Raises:
        ConfigError: crops of another size, or of another number of channels than 1 or 3.
    """
    channels, height, width = crop
    if (height, width) != (side, side):
        raise ConfigError(f"{name} takes search crops of {side}×{side}, {height}×{width} given; set the task's `crops`")
    if channels not in (1, 3):
        raise ConfigError(f"{name} takes images of 1 or 3 channels, {channels} given")


@functools.lru_cache(maxsize=8)
def _finer(cells: int, times: int) -> Float[Tensor, "n cells"]:
    """The matrix of bicubic interpolation along one axis."""
    return functional.interpolate(torch.eye(cells)[None, None], size=(cells * times, cells), mode="bicubic",
                                  align_corners=False)[0, 0]


@functools.lru_cache(maxsize=8)
def _hann(side: int) -> Float[Tensor, "side side"]:
    """A window that sums to 1."""
    line = torch.hann_window(side, periodic=False)
    window = line[:, None] * line
    return window / window.sum()
