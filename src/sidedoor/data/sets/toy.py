"""Generated coloured stripes in two difficulties, for tests and demonstrations: no download, trained in seconds.

Class k of K has stripes at the angle πk/K under a tint of the hue 2πk/K. "easy" keeps both apart. In "hard" the phase
is uniform, brightness and hue vary, and each image's angle is off by a normal of 0.35 class widths, so that no
classifier can expect more than P(|N(0, 1)| < 0.5 / 0.35) = 84.7 %, whatever K is, beyond what the faint hue adds.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sidedoor.core.random import seed_of
from sidedoor.data.base import ArrayDataset, Splits
from sidedoor.data.root import Where, self_contained
from sidedoor.errors import ConfigError
from sidedoor.method import Count

WAVES = 1.5
"""Stripes across half the image."""


class Look(NamedTuple):
    """Standard deviations and strengths; pixels are in [0, 1], angles and hues in class widths and turns."""

    angle: float
    hue: float
    phase: float
    light: float
    noise: float
    contrast: float
    tint: float


LOOKS = {
    "easy": Look(angle=0.0, hue=0.02, phase=0.2, light=0.03, noise=0.04, contrast=0.2, tint=0.15),
    "hard": Look(angle=0.35, hue=0.1, phase=1.0, light=0.1, noise=0.2, contrast=0.2, tint=0.1),
}
CLASSES = {"easy": 4, "hard": 10}


@self_contained
def toy(
    where: Where,
    difficulty: Literal["easy", "hard"] = "easy",
    size: Count = 16,
    classes: Count | None = None,
    train: Count = 1000,
    test: Count = 500,
) -> Splits:
    """Generate the two parts; the same arguments give the same pixels.

    Args:
        difficulty: "easy" is linearly separable; "hard" is not, and its classes overlap.
        size: pixels a side.
        classes: number of classes; None for 4 (easy) or 10 (hard).
        train: number of training images, the classes in equal parts.
        test: number of test images.

    Raises:
        ConfigError: fewer images than classes.
    """
    k = classes or CLASSES[difficulty]
    if min(train, test) < k:
        raise ConfigError(f"toy: {train} training and {test} test images of {k} classes given; expected one a class")

    def part(name: str, count: int) -> ArrayDataset:
        seed = seed_of(k, f"toy/{difficulty}/{name}")
        return ArrayDataset(*_draw(LOOKS[difficulty], k, count, size, seed), k, "toy")

    return Splits(part("train", train), part("test", test))


def _draw(look: Look, classes: int, count: int, size: int, seed: int) -> tuple[np.ndarray, Tensor]:
    """(uint8 images (count, 3, size, size), labels (count,))."""
    rng = torch.Generator().manual_seed(seed)
    y = (torch.arange(count) % classes)[torch.randperm(count, generator=rng)]
    off_angle, off_hue, off_light = torch.randn(3, count, generator=rng)
    phase = 2 * math.pi * look.phase * (torch.rand(count, generator=rng) - 0.5)
    angle = math.pi * (y + look.angle * off_angle) / classes
    hue = 2 * math.pi * (y / classes + look.hue * off_hue)
    axis = torch.linspace(-1, 1, size)
    along = angle.cos()[:, None, None] * axis + angle.sin()[:, None, None] * axis[:, None]
    stripes = torch.sin(2 * math.pi * WAVES * along + phase[:, None, None])
    colour = torch.cos(hue[:, None] + 2 * math.pi * torch.arange(3) / 3)
    noise = torch.randn(count, 3, size, size, generator=rng)
    x = 0.5 + look.light * off_light[:, None, None, None] + look.contrast * stripes[:, None]
    x = x + look.tint * colour[:, :, None, None] + look.noise * noise
    return (x.clamp(0, 1) * 255).round().to(torch.uint8).numpy(), y
