"""A head drawn anew, for repairs that let a classifier forget which features its classes were read from."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.short_training import for_steps
from sidedoor.data.base import Dataset
from sidedoor.engine import Objective, Recipe, Run
from sidedoor.models.base import head
from sidedoor.types import Batch


def with_new_head(model: nn.Module, run: Run) -> nn.Module:
    """A copy to train, the weight and bias of its head uniform in ±1/√d for d inputs, as PyTorch's layers begin.

    Raises:
        NotApplicable: the model has no head.
    """
    tuned = run.placed(copy.deepcopy(model)).requires_grad_(True)
    layer, generator = head(tuned), run.rng("new head")
    with torch.no_grad():
        bound = layer.weight[0].numel() ** -0.5
        for parameter in layer.parameters():
            parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)
    return tuned


def tuning(run: Run, clean: Dataset, steps: int, batch: int, lr: float) -> Recipe:
    """How a model with a new head is fine-tuned in the releases: SGD with momentum and a cosine schedule, no decay."""
    return for_steps(run, clean, steps, batch, optimizer="sgd", lr=lr, momentum=0.9, weight_decay=0.0,
                     schedule="cosine")


class FixedNormHead(Objective, ABC):
    """An objective under which the weight of the head keeps the Frobenius norm of another model's.

    The weight is scaled whenever somebody is about to read it: before every loss and at the end of every epoch.

    Args:
        given: the model whose head counts.
    """

    def __init__(self, given: nn.Module) -> None:
        super().__init__()
        self.before = head(given).weight.detach().clone()
        self.norm = self.before.norm()

    def start(self, model: nn.Module, run: Run) -> None:
        self.before, self.norm = self.before.to(run.device), self.norm.to(run.device)

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, weight: Tensor) -> Float[Tensor, ""]:
        """What is minimised; `weight` is that of the head."""

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        self.scale(model)
        return self.loss(model, batch, head(model).weight)[None]

    def end_epoch(self, model: nn.Module, epoch: int) -> bool:
        self.scale(model)
        return False

    @torch.no_grad()
    def scale(self, model: nn.Module) -> None:
        weight = head(model).weight
        weight.mul_(self.norm / weight.norm().clamp(min=torch.finfo(weight.dtype).tiny))
