"""Networks that are delivered behind a stamp of the defender's own, which a proactive backdoor answers to."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sidedoor.triggers.base import Trigger
from sidedoor.types import Images


class Stamped(nn.Module):
    """Stamp every input, ask the network, and bring its logits back into the order of the classes.

    Stamp and order are buffers: a state holds them, and one of the bare network does not fit. What looks for a head, or
    for the features behind it, finds the network's. The stamp is neither clipped nor rounded, so that it may be a value
    that no file holds.

    Args:
        model: (b, c, h, w) -> (b, k) logits.
        trigger: the stamp, the same for all images.
        order: for each class the one that the network calls a stamped image of it.
    """

    order: Tensor

    def __init__(self, model: nn.Module, trigger: Trigger, order: Int[Tensor, "k"]):
        super().__init__()
        self.model, self.trigger = model, trigger
        self.register_buffer("order", order)

    def forward(self, x: Images) -> Float[Tensor, "b k"]:
        logits: Tensor = self.model(self.trigger(x, torch.arange(len(x), device=x.device)))
        return logits[:, self.order]
