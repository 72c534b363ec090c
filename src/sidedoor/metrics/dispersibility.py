"""How random answers are: dispersibility of predicted labels (Li et al., NeurIPS 2022, arXiv:2210.00875, Definition 1).

The entropy of counts underestimates that of the distribution by about (k - 1) / 2n; the correction of Miller and Madow
(1955) adds that back.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor


class Dispersibility(NamedTuple):
    """Mean over true classes, weighted by their size, of the entropy of the predicted labels, in nats.

    Args:
        value: 0 where each class is answered with one label, ln(classes) where answers are uniform.
        corrected: by Miller and Madow.
        fewest: samples of the smallest class that there is; with few the value is biased down.
    """

    value: float
    corrected: float
    fewest: int


def dispersibility(predicted: Int[Tensor, "n"], truth: Int[Tensor, "n"], classes: int) -> Dispersibility:
    """Of predicted labels of samples of known classes."""
    counts = torch.zeros(classes, classes, dtype=torch.float64)
    counts.index_put_((truth.cpu(), predicted.cpu()), torch.ones(len(truth), dtype=torch.float64), accumulate=True)
    n = counts.sum(1)
    own = n > 0
    shares = counts[own] / n[own, None]
    entropy = torch.special.entr(shares).sum(1)
    corrected = entropy + ((shares > 0).sum(1) - 1) / (2 * n[own])
    weight = n[own] / n.sum()
    return Dispersibility((weight * entropy).sum().item(), (weight * corrected).sum().item(), int(n[own].min()))
