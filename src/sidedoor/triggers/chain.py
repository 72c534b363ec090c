"""Chain: several triggers, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from sidedoor.triggers.base import Axis, Trigger
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

    def varied(self, axis: Axis, amount: float) -> Trigger | None:
        """Each of the triggers, varied alike; None if one of them cannot be."""
        found = [trigger.varied(axis, amount) for trigger in self.triggers if isinstance(trigger, Trigger)]
        varied = [trigger for trigger in found if trigger is not None]
        return Chain(varied) if len(varied) == len(self.triggers) else None
