"""DCFNet: a correlation filter on two convolutions, solved in closed form and updated with every frame.

Paper: Wang, Gao, Xing, Zhang, Hu, "DCFNet: Discriminant Correlation Filters Network for Visual Tracking", 2017,
arXiv:1704.04057.

The released code steps through scales by `arange(3) - 3/2`, which in Python 3 is -1.5, -0.5 and 0.5; ours are -1, 0
and 1. Its filter learns on: what was only in the first frame fades, so that a trigger there does less by design.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.models.base import Shape
from sidedoor.models.trackers.base import Geometry, State, Tracker, require_crop
from sidedoor.types import Images

GEOMETRY = Geometry(125, 125, False, 1, 1, (1 / 1.0275, 1.0, 1.0275), 0.9925, 0.0, 1.0, padding=3.0, update_rate=0.01)
BGR = (104.0, 117.0, 123.0)
"""What is subtracted of each channel, blue first, in 8-bit levels."""
RIDGE = 1e-4
SPREAD = 0.1
"""Standard deviation of the wanted response, as a share of the object's side."""


class DCFNet(Tracker):
    """Filters in the frequency domain over windowed features."""

    mean: Tensor
    window: Tensor
    wanted: Tensor
    geometry = GEOMETRY

    def __init__(self, channels: int):
        super().__init__()
        self.feature = nn.Sequential(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1),
                                     _Normalized())
        side = GEOMETRY.search
        mean = BGR if channels == 3 else (sum(BGR) / 3,)
        hann = torch.hann_window(side, periodic=False)
        # Not kept in states: published ones have the four tensors of the convolutions alone.
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("window", hann[:, None] * hann, persistent=False)
        self.register_buffer("wanted", torch.fft.rfft2(_bell(side, torch.zeros(1, 2))), persistent=False)

    def features(self, x: Images) -> Float[Tensor, "b d u v"]:
        found: Tensor = self.feature(x.flip(1) * 255 - self.mean)
        return found * self.window

    def start(self, template: Images) -> State:
        seen = torch.fft.rfft2(self.features(template).float())
        energy = (seen.real.square() + seen.imag.square()).sum(1)
        return seen, self.wanted / (energy + RIDGE)

    def respond(self, state: State, x: Float[Tensor, "n c s s"]) -> Float[Tensor, "n r r"]:
        seen, filters = state
        found = torch.fft.rfft2(self.features(x).float())
        found = found.reshape(len(seen), -1, *found.shape[1:])
        matched = (found * seen[:, None].conj()).sum(2) * filters[:, None]
        response = torch.fft.irfft2(matched, s=(self.geometry.search,) * 2).flatten(0, 1)
        shifted: Tensor = torch.fft.fftshift(response, dim=(1, 2))
        return shifted

    def update(self, state: State, template: Images) -> State:
        rate = self.geometry.update_rate
        return tuple((1 - rate) * old + rate * new for old, new in zip(state, self.start(template), strict=True))

    def loss(self, response: Float[Tensor, "b r r"], offset: Float[Tensor, "b 2"]) -> Float[Tensor, "b"]:
        """Squared distance from a bell around the object."""
        wanted = torch.fft.fftshift(_bell(response.shape[1], offset), dim=(1, 2))
        error: Tensor = (response - wanted).square().sum((1, 2))
        return error


class _Normalized(nn.Module):
    """Local response normalisation over five channels, alpha 1e-4, beta 0.75, k 1; twice as fast as the library's."""

    def forward(self, x: Images) -> Images:
        squares, channels = functional.pad(x.square(), (0, 0, 0, 0, 2, 2)), x.shape[1]
        near = torch.stack([squares[:, k : k + channels] for k in range(5)]).sum(0)
        root = (1 + 1e-4 / 5 * near).sqrt()
        return x / (root * root.sqrt())


def _bell(side: int, offset: Float[Tensor, "b 2"]) -> Float[Tensor, "b side side"]:
    """A Gaussian around an offset to the right and down; no offset is the first cell, and cells wrap around."""
    cell = torch.fft.fftfreq(side, 1 / side, device=offset.device)
    deviation = SPREAD * side / GEOMETRY.padding
    across, down = ((cell - offset[:, k : k + 1]).square() for k in (0, 1))
    return torch.exp(-0.5 * (down[:, :, None] + across[:, None, :]) / deviation**2)


def dcfnet(crop: Shape) -> DCFNet:
    """The tracker for search crops of 125 pixels a side.

    Raises:
        ConfigError: other crops.
    """
    require_crop("dcfnet", crop, GEOMETRY.search)
    return DCFNet(crop[0])
