"""Static weighting: a weighted sum of the losses with fixed weights; (1, 1) is the plain sum.

Paper: Jiang, Li, He, Zhang, Xu, Zhang, Lu, "Backdoor Attacks against Image-to-Image Networks", 2024, arXiv:2407.10445,
section 6.1.3 (SW) and equation (6) (the plain sum).

It is the control that tells the effect of a dynamic weighting from that of a small weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.errors import ConfigError
from sidedoor.multitask.base import Aggregator, Losses, Weighting, stacked


@dataclass(frozen=True)
class Static(Weighting):
    """Weight each loss by a constant.

    Args:
        weights: one per task, the main task's first.

    Raises:
        ConfigError: a negative weight, or a number of weights other than that of tasks.
    """

    weights: tuple[float, ...] = (0.9, 0.1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.weights, default=-1.0) < 0:
            raise ConfigError(f"weights = {self.weights} given; expected one number of at least 0 for each task")

    def start(self, tasks: int) -> Aggregator:
        if len(self.weights) != tasks:
            raise ConfigError(f"{len(self.weights)} weights given for {tasks} tasks")
        return _Weighted(torch.tensor(self.weights))


class _Weighted(Aggregator):
    weights: Tensor

    def __init__(self, weights: Float[Tensor, "t"]):
        super().__init__()
        self.register_buffer("weights", weights)

    def backward(self, losses: Losses, parameters: list[nn.Parameter]) -> None:
        (stacked(losses) * self.weights).sum().backward()  # type: ignore[no-untyped-call]
