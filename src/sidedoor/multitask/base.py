"""What every multi-task weighting is: hyper-parameters, and an aggregator that keeps state through a phase."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.method import Method

Losses = Float[Tensor, "t"] | tuple[Float[Tensor, ""], ...]
"""One loss per task. The gradient of one of (t,) runs back through the graphs of all; of scalars, through its own."""


def stacked(losses: Losses) -> Float[Tensor, "t"]:
    """The losses as one tensor."""
    return losses if isinstance(losses, Tensor) else torch.stack(losses)


class Aggregator(nn.Module, ABC):
    """Turns several losses into the gradients that a step takes. Its state is checkpointed with the phase.

    Parameters of its own are stepped by the phase's optimiser, with the model's.
    """

    @abstractmethod
    def backward(self, losses: Losses, parameters: list[nn.Parameter]) -> None:
        """Leave the gradients to step with in `.grad` of the parameters, which is clear before, and of its own."""

    def end_epoch(self, means: Float[Tensor, "t"]) -> None:
        """Take note of the mean of each loss over the epoch that ended."""


class Sum(Aggregator):
    """The plain sum, as every single-task objective uses it; parties that share the pass get gradients as well."""

    def backward(self, losses: Losses, parameters: list[nn.Parameter]) -> None:
        stacked(losses).sum().backward()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Weighting(Method, ABC):
    """How the tasks of one objective share the model. The first loss is the main task's."""

    @abstractmethod
    def start(self, tasks: int) -> Aggregator:
        """A fresh aggregator for a number of losses."""
