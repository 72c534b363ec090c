"""Synthetic perturbations that stand for triggers nobody has seen: x -> x, each image by a draw of its own."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sidedoor.types import Images

LARGEST = 0.3  # side of a block, as a share of the image's


def white_block(x: Images) -> Images:
    return torch.where(_block(x), 1.0, x)


def coloured_block(x: Images) -> Images:
    """Of one colour, or of noise."""
    plain = torch.rand(len(x), x.shape[1], 1, 1, device=x.device).expand_as(x)
    return torch.where(_block(x), torch.where(_draw(x) < 0.5, plain, torch.rand_like(x)), x)


def noise(x: Images) -> Images:
    return x + (0.02 + 0.13 * _draw(x)) * torch.randn_like(x)


def shadow(x: Images) -> Images:
    """One side of a line through the image is darker."""
    rows = torch.linspace(-1, 1, x.shape[2], device=x.device)[:, None]
    columns = torch.linspace(-1, 1, x.shape[3], device=x.device)
    angle = 2 * math.pi * _draw(x)
    side = angle.cos() * rows + angle.sin() * columns > _draw(x) - 0.5
    return torch.where(side, (0.3 + 0.5 * _draw(x)) * x, x)


def blend(x: Images) -> Images:
    """With another image, or with noise."""
    other = torch.where(_draw(x) < 0.5, x.roll(1, 0), torch.rand_like(x))
    return torch.lerp(x, other, 0.05 + 0.25 * _draw(x))


PERTURBATIONS: dict[str, Callable[[Images], Images]] = {
    function.__name__: function for function in (white_block, coloured_block, noise, shadow, blend)}


def _draw(x: Images) -> Float[Tensor, "b 1 1 1"]:
    return torch.rand(len(x), 1, 1, 1, device=x.device)


def _block(x: Images) -> Tensor:
    """A rectangle somewhere in each image."""
    inside = []
    for side in x.shape[2:]:
        size = 1 + (_draw(x)[:, 0, 0] * max(1, LARGEST * side)).floor()
        start = (torch.rand_like(size) * (side - size + 1)).floor()
        place = torch.arange(side, device=x.device)
        inside.append((place >= start) & (place < start + size))
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
