"""DWA: dynamic weight average, which weights each loss by how slowly it has been falling.

Paper: Liu, Johns, Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019, arXiv:1803.10704.

Jiang et al. (Eq. 8) print steps and no temperature; we take the paper's epoch means, its temperature of 2 and its equal
weights in the first two epochs, since the ratio of two single steps is mostly noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.method import Positive
from sidedoor.multitask.base import Aggregator, Losses, Weighting, stacked


@dataclass(frozen=True)
class DWA(Weighting):
    """Weight each loss by the softmax of its mean in the last epoch over that in the one before.

    Args:
        temperature: T; the higher, the more equal the weights.
    """

    temperature: Positive = 2.0

    def start(self, tasks: int) -> Aggregator:
        return _Averaging(tasks, self.temperature)


class _Averaging(Aggregator):
    weights: Tensor
    before: Tensor

    def __init__(self, tasks: int, temperature: float):
        super().__init__()
        self.temperature = temperature
        self.register_buffer("weights", torch.ones(tasks))
        self.register_buffer("before", torch.full((tasks,), torch.nan))  # no epoch has ended yet

    def backward(self, losses: Losses, parameters: list[nn.Parameter]) -> None:
        (stacked(losses) * self.weights).sum().backward()  # type: ignore[no-untyped-call]

    def end_epoch(self, means: Float[Tensor, "t"]) -> None:
        r = means / self.before
        if not r.isnan().any():
            self.weights.copy_(len(r) * torch.softmax(r / self.temperature, 0))  # Eq. (8)
        self.before.copy_(means)
