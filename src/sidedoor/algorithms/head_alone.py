"""Training a network's head alone, everything before it as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.optim.batch_norm import evaluating
from sidedoor.data.base import Dataset
from sidedoor.engine import Objective, Run
from sidedoor.models.base import head
from sidedoor.types import Batch

Loss = Callable[[nn.Module, Batch], Float[Tensor, ""]]


def train_head(model: nn.Module, data: Dataset, loss: Loss, run: Run) -> nn.Module:
    """Train the head in place by the run's recipe; all else, running statistics among it, stays bit for bit.

    Raises:
        NotApplicable: the model has no head.
    """
    recipe = replace(run.recipe, batch=max(2, min(run.recipe.batch, len(data) // 2)), patience=0)
    head(model.requires_grad_(False)).requires_grad_(True)
    return run.fit(model, data, HeadAlone(loss), name="head", recipe=recipe).requires_grad_(True)


class HeadAlone(Objective):
    """A loss of a network in evaluation mode.

    Args:
        loss: (model, batch) -> a scalar.
    """

    def __init__(self, loss: Loss):
        super().__init__()
        self.loss = loss

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        with evaluating(model):
            return self.loss(model, batch)[None]
