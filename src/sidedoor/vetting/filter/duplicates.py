"""The same image under several labels: byte for byte, or nearly by a perceptual hash.

The hash is the usual one of 64 bits: the lowest 8×8 coefficients of a cosine transform of the image at 32×32, each
above their median or not (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010). Simple
images, such as digits on black, share hashes without being alike, so that pairs must agree in their pixels, too.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from sidedoor.data.base import Dataset

SIDE, KEPT = 32, 8
DISTANCE = 4
"""Bits in which hashes of near duplicates differ, at most."""
LEVELS = 8
"""Mean absolute difference of their pixels, of 255, at most."""
MOST = 1000
"""Pairs that are listed."""
COMPARED = 100_000
"""Rows above which near duplicates are not looked for: every pair of rows is compared."""
AT_ONCE = 2**24
"""Pairs that are compared in one product of matrices."""
ROWS = 1024


class Conflicts(NamedTuple):
    """Pairs of rows that show the same image under different labels.

    Args:
        exact: equal byte for byte; at most `MOST` pairs, each row with the first one of another label.
        near: equal to the eye, as far as hash and pixels tell; at most `MOST` pairs.
        compared: whether near ones were looked for.
        more: whether there are more than are listed.
    """

    exact: tuple[tuple[int, int], ...]
    near: tuple[tuple[int, int], ...]
    compared: bool
    more: bool

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        return self.exact + self.near


def conflicts(data: Dataset) -> Conflicts:
    """All pairs of a data set, as far as they are listed."""
    exact = [pair for pair, _ in zip(_exact(data), range(MOST + 1), strict=False)]
    compared = len(data) <= COMPARED
    known = set(exact)
    near = [pair for pair in _near(data) if pair not in known] if compared else []
    return Conflicts(tuple(exact[:MOST]), tuple(near[:MOST]), compared, len(exact) > MOST or len(near) > MOST)


def _parts(data: Dataset) -> Iterator[Tensor]:
    return (data.rows(torch.arange(start, min(start + ROWS, len(data)))).cpu() for start in range(0, len(data), ROWS))


def _exact(data: Dataset) -> Iterator[tuple[int, int]]:
    """Each row with the first one that has the same pixels and another label."""
    firsts: dict[bytes, dict[int, int]] = {}
    row = 0
    for part in _parts(data):
        for image in part.numpy():
            known = firsts.setdefault(hashlib.sha256(image.tobytes()).digest(), {})
            label = int(data.targets[row])
            other = next((first for name, first in known.items() if name != label), None)
            if other is not None:
                yield other, row
            known.setdefault(label, row)
            row += 1


def hashed(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 64"]:
    """The bits of each image as 1 and -1, so that a product of two is 64 less twice the bits in which they differ."""
    grey = functional.interpolate(images.mean(1, keepdim=True), (SIDE, SIDE), mode="bilinear", antialias=True)[:, 0]
    place = (torch.arange(SIDE) + 0.5) / SIDE
    basis = torch.cos(math.pi * torch.arange(KEPT)[:, None] * place)
    found = (basis @ grey @ basis.T).flatten(1)
    return torch.where(found > found.median(1, keepdim=True).values, 1.0, -1.0)


def _near(data: Dataset) -> list[tuple[int, int]]:
    """At most one pair more than are listed."""
    bits = torch.cat([hashed(part.float()) for part in _parts(data)])
    found: list[tuple[int, int]] = []
    step = max(1, AT_ONCE // len(data))
    for start in range(0, len(data), step):
        rows = slice(start, start + step)
        alike = bits[rows] @ bits[start:].T >= bits.shape[1] - 2 * DISTANCE
        alike &= data.targets[rows, None] != data.targets[None, start:]
        pairs = start + torch.nonzero(alike.triu(1))
        for few in torch.split(pairs, ROWS):
            found += map(tuple, few[_same(data, few)].tolist())
            if len(found) > MOST:
                return found[: MOST + 1]
    return found


def _same(data: Dataset, pairs: Tensor) -> Tensor:
    """Which pairs agree in their pixels."""
    one, other = (data.rows(pairs[:, side]).cpu().float().flatten(1) for side in (0, 1))
    return (one - other).abs().mean(1) <= LEVELS
