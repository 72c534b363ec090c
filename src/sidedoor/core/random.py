"""Random numbers that belong to a sample, not to the moment it is looked at.

A trigger, a purifier or an evaluation noise must treat image 17 the same way in every batch, on every device and
after every resume. So randomness is a pure function of (seed, index): a counter-based generator in 64-bit integer
arithmetic, the SplitMix64 finaliser (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators",
OOPSLA 2014), vectorised over the batch.
"""

from __future__ import annotations

import hashlib
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_A = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_B = -7723592293110705685  # 0x94D049BB133111EB


def seed_of(seed: int, name: str) -> int:
    """A 63-bit seed for a named stream, so that a new stream never shifts another."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of a signed 64-bit tensor."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _MIX_A
    z = (z ^ _shift(z, 27)) * _MIX_B
    return z ^ _shift(z, 31)


def uniform(seed: int, index: Int[Tensor, "b"], *shape: int) -> Float[Tensor, "b ..."]:
    """Uniform numbers in [0, 1), `shape` of them a sample, the same for the same (seed, index) on any device."""
    counter = torch.arange(math.prod(shape), device=index.device, dtype=torch.int64)
    stream = _mix(index.to(torch.int64) * _GOLDEN + seed)
    z = _mix(stream[:, None] + (counter + 1) * _GOLDEN)
    return (_shift(z, 40).to(torch.float32) / (1 << 24)).reshape(len(index), *shape)


def integers(seed: int, index: Int[Tensor, "b"], high: int, *shape: int) -> Int[Tensor, "b ..."]:
    """Integers in [0, high), `shape` of them a sample."""
    return (uniform(seed, index, *shape) * high).to(torch.int64).clamp_(max=high - 1)


def normal(seed: int, index: Int[Tensor, "b"], *shape: int) -> Float[Tensor, "b ..."]:
    """Standard normal numbers, `shape` of them a sample (Box and Muller 1958)."""
    count = math.prod(shape)
    half = (count + 1) // 2
    u = uniform(seed, index, 2, half)
    # 1 - u lies in (0, 1], so that the logarithm is finite.
    radius = (-2 * torch.log1p(-u[:, 0])).sqrt_()
    angle = 2 * math.pi * u[:, 1]
    pairs = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
    return pairs[:, :count].reshape(len(index), *shape)
