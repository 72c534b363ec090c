"""Uncertainty weighting: losses weighted by learned homoscedastic uncertainties of the tasks.

Paper: Kendall, Gal, Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics",
CVPR 2018, arXiv:1705.07115.

Jiang et al. (Eq. 7) call σ² the variance of the loss; it is the observation noise of a task, a parameter. At its
optimum σ² is the loss, so the objective becomes half the sum of the losses' logarithms, and the weight of a task grows
without bound as its loss vanishes: log σ² is kept above a floor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from sidedoor.multitask.base import Aggregator, Losses, Weighting, stacked


@dataclass(frozen=True)
class Uncertainty(Weighting):
    """Minimise Σ L_i / (2 σ_i²) + log σ_i over the model and over v_i = log σ_i².

    Args:
        start_at: the initial v.
        floor: the smallest v.
    """

    start_at: float = 0.0
    floor: float = -10.0

    def start(self, tasks: int) -> Aggregator:
        return _Uncertain(tasks, self.start_at, self.floor)


class _Uncertain(Aggregator):
    def __init__(self, tasks: int, start: float, floor: float):
        super().__init__()
        self.v = nn.Parameter(torch.full((tasks,), start))
        self.floor = floor

    def backward(self, losses: Losses, parameters: list[nn.Parameter]) -> None:
        v = self.v.clamp(min=self.floor)
        objective = (0.5 * torch.exp(-v) * stacked(losses) + 0.5 * v).sum()  # Eq. (7)
        objective.backward()  # type: ignore[no-untyped-call]
