"""Local gradient ascent: training that holds the loss up, so that the rows which fall below it anyway stand out.

Paper: Li, Lyu, Koren, Lyu, Li, Ma, "Anti-Backdoor Learning: Training Clean Models on Poisoned Data", NeurIPS 2021,
arXiv:2110.11571, Eq. 2.

The sign is taken from a batch's mean loss, as flooding does, from which it derives: taken sample by sample it holds
poisoned rows at the same loss as all others, and on the digits it mostly isolated clean ones.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.engine import Objective
from sidedoor.tasks.task import Task
from sidedoor.types import Batch


class LocalGradientAscent(Objective):
    """Descend while a batch's mean loss is above `gamma`, ascend while it is below."""

    def __init__(self, task: Task, gamma: float):
        super().__init__()
        self.task, self.gamma = task, gamma

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        loss = self.task.loss(model, batch).mean()
        return (torch.sign(loss.detach() - self.gamma) * loss)[None]
