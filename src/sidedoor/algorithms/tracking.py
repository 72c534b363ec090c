"""The closed loop of a tracker: the box it finds in one frame is where it looks for the object in the next."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sidedoor.image.geometry import cut_out
from sidedoor.models.trackers.base import Geometry, State, Tracker, locate
from sidedoor.types import Images

SMALLEST, LARGEST = 0.2, 5.0
"""Bounds of an object's size, relative to that in the first frame."""
AT_ONCE = 2**18
"""Values of crops in one forward pass on a processor; larger ones leave its cache."""


def track(model: Tracker, frames: Iterable[Images], boxes: Float[Tensor, "b 4"]) -> Float[Tensor, "b t 4"]:
    """Follow one object in each of several videos, which go through their frames together.

    Args:
        model: in evaluation mode, on the device of the frames.
        frames: the first frames of all videos, the second ones, and so on.
        boxes: of the objects in the first frames, (left, top, right, bottom) in pixels.

    Returns:
        The box in each frame, the given one first; NaN from the frame on where a response is not finite.
    """
    found, objects = [boxes], None
    with torch.no_grad():
        for frame in frames:
            if objects is None:
                objects = _Objects.of(model, frame, boxes)
            else:
                objects = objects.moved(model, frame)
                found.append(objects.boxes())
    return torch.stack(found, 1)


@dataclass(frozen=True)
class _Objects:
    """Where objects are, and what the tracker knows of each.

    Args:
        first: sizes in the first frame.
        fill: mean colour of the first frame, which stands for what is outside of frames.
        lost: whose response was not finite.
    """

    centre: Float[Tensor, "b 2"]
    size: Float[Tensor, "b 2"]
    first: Float[Tensor, "b 2"]
    fill: Float[Tensor, "b c 1 1"]
    state: State
    lost: Bool[Tensor, "b"]

    @staticmethod
    def of(model: Tracker, frame: Images, boxes: Float[Tensor, "b 4"]) -> _Objects:
        size = boxes[:, 2:] - boxes[:, :2]
        blank = _Objects((boxes[:, :2] + boxes[:, 2:]) / 2, size, size, frame.mean((2, 3), keepdim=True), (),
                         torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device))
        return replace(blank, state=model.start(model.template(blank.crops(model.geometry, frame, (1.0,)))))

    def boxes(self) -> Float[Tensor, "b 4"]:
        found = torch.cat([self.centre - self.size / 2, self.centre + self.size / 2], 1)
        return torch.where(self.lost[:, None], torch.nan, found)

    def crops(self, geometry: Geometry, frame: Images, scales: tuple[float, ...]) -> Float[Tensor, "bk c s s"]:
        """Search crops at several scales, those of the first object first."""
        half = geometry.window(self.size)[:, None] * torch.tensor(scales, device=frame.device)[:, None] / 2
        centre, fill = self.centre[:, None], self.fill
        cut = cut_out(frame - fill, torch.cat([centre - half, centre + half], 2), (geometry.search,) * 2)
        return cut + fill.repeat_interleave(len(scales), 0)

    def moved(self, model: Tracker, frame: Images) -> _Objects:
        """As they are in the next frame."""
        geometry, k = model.geometry, len(model.geometry.scales)
        response = self._response(model, self.crops(geometry, frame, geometry.scales), k)
        finite = response.isfinite().flatten(1).all(1)
        peak = locate(geometry, torch.where(finite[:, None, None, None], response, 0.0))
        scale = torch.tensor(geometry.scales, device=frame.device)[peak.scale][:, None]
        limit = torch.tensor([frame.shape[3], frame.shape[2]], device=frame.device)
        centre = self.centre + peak.offset / geometry.search * geometry.window(self.size) * scale
        size = self.size * (1 + geometry.scale_rate * (scale - 1))
        size = torch.maximum(torch.minimum(size, LARGEST * self.first), SMALLEST * self.first)
        here = replace(self, centre=torch.minimum(centre.clamp(min=0), limit), size=size, lost=self.lost | ~finite)
        if not geometry.update_rate:
            return here
        return replace(here, state=model.update(self.state, model.template(here.crops(geometry, frame, (1.0,)))))

    def _response(self, model: Tracker, crops: Tensor, k: int) -> Float[Tensor, "b k r r"]:
        at_once = max(1, AT_ONCE // (k * crops[0].numel())) if crops.device.type == "cpu" else len(self.size)
        parts = [model.respond(tuple(value[part] for value in self.state), crops[part[0] * k : (part[-1] + 1) * k])
                 for part in torch.split(torch.arange(len(self.size), device=crops.device), at_once)]
        response = torch.cat(parts).float()
        return response.reshape(-1, k, *response.shape[1:])
