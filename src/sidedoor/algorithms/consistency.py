"""What a model says of variants of an input: detectors ask whether its answer stays the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.engine import Run
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Index

Variant = Callable[[Images, Index], Images]
"""(x, index) -> x, changed; what is random in it is keyed by the index."""


def unchanged(x: Images, index: Index) -> Images:
    """The input itself, as a variant."""
    return x


@torch.no_grad()
def answers(model: nn.Module, x: Images, index: Index, variants: Sequence[Variant], task: Task,
            run: Run) -> Float[Tensor, "b v k"]:
    """Predicted probabilities of every variant of every input."""
    with run.autocast():
        return torch.cat([
            torch.stack([task.predict(model, change(x[rows], index[rows])) for change in variants], 1)
            for rows in run.chunks(len(x), x[0].numel())])
