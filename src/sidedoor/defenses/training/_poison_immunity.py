"""Poison immunity: the objective of training on poison that is crafted anew in every batch.

Paper: Geiping, Fowl, Somepalli, Goldblum, Moeller, Goldstein, "What Doesn't Kill You Makes You Robust(er): How to
Adversarially Train against Data Poisoning", 2021, arXiv:2102.13624.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.engine import Objective
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Images, joined

Crafted = tuple[Images, Float[Tensor, "targets c h w"]]
"""Images of the rows that play poison, and of those that play its targets."""
Craft = Callable[[nn.Module, Batch, Batch], Crafted]
"""(network in evaluation mode, the rows that play poison, the rows that play its targets) -> the images of both."""


class Immunity(Objective):
    """Make the first rows of a batch poison against the others, and train on all with their own labels.

    Args:
        share: of a batch that plays poison; one row at least plays a target, and one poison where there are two.
        craft: makes it.
    """

    def __init__(self, task: Task, share: float, craft: Craft):
        super().__init__()
        self.task, self.share, self.craft = task, share, craft

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        if len(batch.x) < 2:
            return self.task.loss(model, batch).mean()[None]
        count = min(max(round(self.share * len(batch.x)), 1), len(batch.x) - 1)
        poison, targets = (Batch(*(column[part] for column in batch)) for part in (slice(count), slice(count, None)))
        was_training = model.training
        model.eval()
        with torch.enable_grad():
            crafted = self.craft(model, poison, targets)
        model.train(was_training)
        made = (part._replace(x=x.detach()) for part, x in zip((poison, targets), crafted, strict=True))
        return self.task.loss(model, joined(*made)).mean()[None]
