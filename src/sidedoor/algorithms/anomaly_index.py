"""The anomaly index: how far a number lies below the others of its kind, in robust standard deviations."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def anomaly_index(size: Float[Tensor, "k"]) -> Float[Tensor, "k"]:
    """(median - size) / (1.4826 MAD): how far a size lies below the others, in robust standard deviations.

    Where the median absolute deviation is zero, the mean absolute deviation scales the index (Iglewicz and Hoaglin
    1993). Means little for fewer than about ten classes, and nothing for two, for which it is ±0.67. All 0 if the sizes
    are equal.
    """
    size = size.double()
    below = size.quantile(0.5) - size
    scale = 1.4826 * below.abs().quantile(0.5)
    if scale == 0:
        scale = 1.2533 * below.abs().mean()
    return below / scale if scale > 0 else below
