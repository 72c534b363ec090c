"""Chain: several triggers, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from sidedoor.triggers.base import Trigger
from sidedoor.types import Images, Index


class Chain(Trigger):
    """Apply triggers in order.

    Args:
        triggers: the first is applied to the image, each other one to the result of the one before.
    """

    def __init__(self, triggers: Sequence[Trigger]):
        super().__init__()
        self.triggers = nn.ModuleList(triggers)

    def forward(self, x: Images, index: Index) -> Images:
        for trigger in self.triggers:
            x = trigger(x, index)
        return x
