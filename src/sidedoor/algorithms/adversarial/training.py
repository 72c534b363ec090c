"""Adversarial training: an objective that trains on what PGD makes of each batch.

Paper: Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR
2018, arXiv:1706.06083.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sidedoor.algorithms.adversarial.pgd import Steps, ascended
from sidedoor.engine import Objective
from sidedoor.types import Batch


class Robust(Objective):
    """Train on what PGD makes of each batch (Madry et al. 2018, Eq. 2.1), from a random start within the bound.

    The search sees the model in evaluation mode, so that it does not move running statistics.

    Args:
        loss: (model, batch) -> (b,), such as a task's.
        epsilon: bound, in 8-bit levels; steps are a quarter of it.
        iterations: steps for each batch.
    """

    def __init__(self, loss: Callable[[nn.Module, Batch], Tensor], epsilon: float = 4.0, iterations: int = 10):
        super().__init__()
        self.loss, self.how = loss, Steps(epsilon / 255, epsilon / 255 / 4, iterations)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        was_training = model.training
        start = batch.x + (torch.rand_like(batch.x) * 2 - 1) * self.how.epsilon
        model.eval()
        with torch.enable_grad():
            worst = ascended(lambda x: self.loss(model, batch._replace(x=x)).sum(), batch.x, self.how, start)
        model.train(was_training)
        return self.loss(model, batch._replace(x=worst)).mean()[None]
