"""The discrete cosine transform as a matrix."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def cosines(size: int) -> Float[Tensor, "size size"]:
    """The orthonormal transform of type II: `cosines(h) @ x @ cosines(w).T` transforms images x."""
    place = torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi * (place + 0.5) * place[:, None] / size)
    unit: Tensor = rows / rows.norm(dim=1, keepdim=True)
    return unit.float()
