"""Patches of random pixels at a random place, which watermarks draw from the owner's streams."""

from __future__ import annotations

import torch

from sidedoor.backdoor.base import AttackerRun, Backdoor
from sidedoor.backdoor.secret import Secret
from sidedoor.errors import ConfigError
from sidedoor.triggers.patch import Patch


def random_patch(shape: tuple[int, int, int], size: int, rng: torch.Generator) -> Patch:
    """A square at a place where it fits, any with the same probability; in each channel a random half of it is white.

    As many pixels are white in all patches, so that none is invisible, or much stronger than another.

    Args:
        shape: (c, h, w) of the images.
        size: edge in pixels.

    Raises:
        ConfigError: the images are smaller.
    """
    channels, height, width = shape
    if size > min(height, width):
        raise ConfigError(f"a patch of {size} pixels a side given for images of {height}×{width}; expected "
                          "a smaller one")
    rank = torch.rand(channels, size * size, generator=rng).argsort(1)
    pattern = (rank < (size * size + 1) // 2).float().reshape(channels, size, size)
    top, left = (int(torch.randint(side - size + 1, (), generator=rng)) for side in (height, width))
    return Patch(pattern, place=(top, left))


def random_patches(shape: tuple[int, int, int], size: int, count: int, rng: torch.Generator) -> tuple[Patch, ...]:
    """Several, drawn one after the other."""
    return tuple(random_patch(shape, size, rng) for _ in range(count))


def without_label(backdoor: Backdoor, shape: tuple[int, int, int], size: int, decoys: int, run: AttackerRun) -> Secret:
    """The secret of a watermark that leads to no class: its patch, and others that could as well have been drawn."""
    return Secret((backdoor.doors[0].trigger,), (), random_patches(shape, size, decoys, run.rng("decoys")))
