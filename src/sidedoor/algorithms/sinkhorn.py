"""Sinkhorn's algorithm in logarithms: rows assigned to classes by their scores, such that each class gets its share.

Paper: Cuturi, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport", NeurIPS 2013, arXiv:1306.0895.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

TOLERANCE = 1e-3
"""Total error of the masses of classes at which the algorithm has converged; all of them are 1."""
SWEEPS = 10_000


def balanced(scores: Float[Tensor, "n k"], log_share: Float[Tensor, "k"], sweeps: int = SWEEPS) \
        -> Float[Tensor, "n k"]:
    """The logarithm of exp(scores), rows and columns scaled to masses of 1/n and of each class's share.

    Args:
        sweeps: over rows and columns, at most. Columns have their masses after any number of them.
    """
    columns = torch.zeros_like(log_share)
    for _ in range(sweeps):
        rows = -(scores + columns).logsumexp(1, keepdim=True) - math.log(len(scores))
        mass = (scores + rows).logsumexp(0)
        error = ((mass + columns).exp() - log_share.exp()).abs().sum()
        columns = log_share - mass
        if error < TOLERANCE:
            break
    return scores + rows + columns
