"""Simulated print and capture: what a printer and a camera might make of an image; a simulation, no photograph.

The effect of the real ones on backdoors is in Li, Zhai, Jiang, Li, Xia, "Backdoor Attack in the Physical World", ICLR
2021 workshop, arXiv:2104.02361, which says nothing of ranges: those here are ours.

Order: ink, seen from the side, light, out of focus or moved, fewer pixels, noise, white balance, JPEG. Each has its own
draw for a sample, keyed by (seed, index), so that one photograph is taken the same way again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from sidedoor.core import random
from sidedoor.data.corruptions import along
from sidedoor.data.jpeg import compressed
from sidedoor.errors import ConfigError
from sidedoor.image.geometry import projected, resized
from sidedoor.method import Method, Share
from sidedoor.types import Batch, Images, Index

GAMUT, BLACK = 0.9, 0.02
"""Saturation that ink keeps, and how bright its black is."""
CORNERS = 0.08
"""Largest move of a corner, as a share of the side."""
LIGHT = 0.3
"""Largest gain or loss by uneven light, as a share."""
FOCUS, MOTION = (0.3, 1.2), (1.0, 3.0)
"""σ of a blur, and length of a motion, in pixels."""
SMALLEST, SIZES = 0.5, 6
"""Least size of the picture on the sensor, as a factor, and how many sizes there are from it to the whole."""
SHOT, READ = 0.002, 1e-4
"""Variance of the noise, for each unit of brightness and in the dark."""
BALANCE = 0.08
"""Largest error of the white balance, as a share."""
QUALITY = (60, 95)
"""Of the camera's JPEG files."""


def photographed(x: Images, index: Index, seed: int, strength: float = 1.0) -> Images:
    """Images after a simulated print and a simulated photograph, in [0, 1].

    Args:
        seed: with the index it decides all draws, which are the same at every strength.
        strength: factor in [0, 1] on all ranges; 0 leaves images as they are.
    """
    if strength == 0:
        return x
    u = random.uniform(random.seed_of(seed, "camera"), index, 23)
    sign = 2 * u - 1
    turn = u[:, 8] < 0.5
    x = printed(x.clamp(0, 1), 1 - strength * (1 - GAMUT), strength * BLACK)
    x = projected(x, _square(x) + 2 * CORNERS * strength * sign[:, :8].reshape(-1, 4, 2))
    x = lit(x, u[:, 9:15], LIGHT * strength)
    x = blurred(x, torch.where(turn, strength * _between(u[:, 15], FOCUS), 0.0))
    x = along(x, _step(x, u[:, 16], torch.where(turn, 0.0, strength * _between(u[:, 17], MOTION))))
    x = resampled(x, 1 - strength * (1 - SMALLEST) * (SIZES * u[:, 18]).floor() / (SIZES - 1))
    x = noisy(x, random.normal(random.seed_of(seed, "sensor"), index, *x.shape[1:]), strength)
    x = balanced(x, 1 + BALANCE * strength * sign[:, 19:22])
    return compressed(x, (100 - strength * (100 - _between(u[:, 22], QUALITY))).round().to(torch.int64))


def printed(x: Images, gamut: float, black: float) -> Images:
    """Images in ink: in linear light (power 2.2), less saturated and with a grey black."""
    linear = x**2.2
    grey = linear.mean(1, keepdim=True)
    return (black + (1 - black) * torch.lerp(grey, linear, gamut)).clamp(0, 1) ** (1 / 2.2)


def lit(x: Images, draw: Float[Tensor, "b 6"], most: float) -> Images:
    """Images under light that falls off to one side and has one soft spot, brighter or darker.

    Args:
        draw: in [0, 1): the direction, the share of the slope, the spot's place across and down, size and sign.
        most: largest gain or loss.
    """
    height, width = x.shape[2:]
    down, across = (torch.linspace(-1, 1, side, device=x.device) for side in (height, width))
    angle, share, right, low, size, sign = draw[:, :, None, None].unbind(1)
    slope = (across * (2 * math.pi * angle).cos() + down[:, None] * (2 * math.pi * angle).sin()) / math.sqrt(2)
    distance = (across - (2 * right - 1)).square() + (down[:, None] - (2 * low - 1)).square()
    spot = (2 * torch.exp(-distance / (2 * (0.3 + 0.5 * size).square())) - 1) * torch.where(sign < 0.5, -1.0, 1.0)
    return (x * (1 + most * torch.lerp(spot, slope, share))[:, None]).clamp(0, 1)


def blurred(x: Images, sigma: Float[Tensor, "b"], reach: int = math.ceil(3 * FOCUS[1])) -> Images:
    """Images convolved with a Gaussian of their own, in pixels, with edges that go on as they are; 0 for none.

    Args:
        reach: pixels from the middle of the kernel to its end.
    """
    place = torch.arange(-reach, reach + 1, device=x.device)
    kernel = torch.exp(-place.square() / (2 * sigma.clamp(min=1e-2)[:, None].square()))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(x.shape[1], 0)[:, None, None]
    planes = functional.pad(x, [reach] * 4, mode="replicate").flatten(0, 1)[None]
    across = functional.conv2d(planes, kernel, groups=len(kernel))
    return functional.conv2d(across, kernel.mT, groups=len(kernel)).reshape(x.shape)


def resampled(x: Images, factor: Float[Tensor, "b"]) -> Images:
    """Images with fewer pixels, by a factor of each in (0, 1], enlarged again; one pass for each factor."""
    made = x.clone()
    for each in torch.unique(factor).tolist():
        mine = factor == each
        size = tuple(max(1, round(each * side)) for side in x.shape[2:])
        if size != tuple(x.shape[2:]):
            small = functional.interpolate(x[mine], size=size, mode="bilinear", antialias=True)
            made[mine] = resized(small, x.shape[2:])
    return made


def noisy(x: Images, noise: Images, strength: float = 1.0) -> Images:
    """Images with noise of a variance that grows with brightness: `SHOT` x + `READ`, its deviation times a strength."""
    return (x + strength * (SHOT * x.clamp(min=0) + READ).sqrt() * noise).clamp(0, 1)


def balanced(x: Images, gains: Float[Tensor, "b 3"]) -> Images:
    """Colour images with a gain for each channel; grey ones are left alone."""
    return (x * gains[:, :, None, None]).clamp(0, 1) if x.shape[1] == 3 else x


@dataclass(frozen=True)
class PrintCapture(Method):
    """Train on simulated photographs, taken afresh each time an image is looked at.

    Args:
        strength: factor on all ranges.

    Raises:
        ConfigError: targets that are images, which would not be moved along.
    """

    strength: Share = 1.0

    def __call__(self, batch: Batch) -> Batch:
        if batch.y.ndim == 4:
            raise ConfigError("a simulated camera moves inputs only, but the targets are images; train without it")
        seed = int(torch.randint(2**62, ()))
        return batch._replace(x=photographed(batch.x, batch.index, seed, self.strength))


def _square(x: Images) -> Float[Tensor, "1 4 2"]:
    """The corners of a picture as it is."""
    return x.new_tensor([[[-1.0, -1], [1, -1], [1, 1], [-1, 1]]])


def _step(x: Images, turn: Float[Tensor, "b"], pixels: Float[Tensor, "b"]) -> Float[Tensor, "b 2"]:
    """(across, down) in halves of the side: so many pixels in a direction."""
    angle = 2 * math.pi * turn
    return torch.stack([2 * pixels * angle.cos() / x.shape[3], 2 * pixels * angle.sin() / x.shape[2]], 1)


def _between(share: Float[Tensor, "b"], ends: tuple[float, float]) -> Float[Tensor, "b"]:
    return ends[0] + (ends[1] - ends[0]) * share
