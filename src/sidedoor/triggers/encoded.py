"""Encoded message: a sample-specific trigger that a steganographic network derives from image and message (ISSBA).

Paper: Li, Li, Wu, Li, He, Lyu, "Invisible Backdoor Attack with Sample-Specific Triggers", ICCV 2021, arXiv:2012.03816.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.triggers.base import Trigger
from sidedoor.types import Images, Index


class Encoded(Trigger):
    """x' = x + G(x, s) with one message s for all images.

    Args:
        network: (images, messages) -> residual images; it is frozen and put into evaluation mode.
        message: (bits,), zeros and ones.
    """

    networked: ClassVar[bool] = True
    message: Tensor

    def __init__(self, network: nn.Module, message: Float[Tensor, "bits"]):
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.register_buffer("message", message)

    def forward(self, x: Images, index: Index) -> Images:
        changed: Tensor = x + self.network(x, self.message.expand(len(x), -1))
        return changed


def messages(count: int, bits: int, rng: torch.Generator) -> Float[Tensor, "n bits"]:
    """Random messages, on the generator's device."""
    return torch.randint(0, 2, (count, bits), generator=rng, device=rng.device).float()
