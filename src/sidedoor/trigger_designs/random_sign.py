"""Random signs: one draw of a pattern at the universal perturbation's bound, the control for its direction.

Paper: none; a control for the trigger of Jiang et al., arXiv:2407.10445.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sidedoor.method import Positive
from sidedoor.trigger_designs.base import Design, Setting
from sidedoor.triggers.additive import Additive
from sidedoor.triggers.base import Trigger


@dataclass(frozen=True)
class RandomSign(Design):
    """Add one draw of ±epsilon to every image.

    Args:
        epsilon: in 8-bit levels; 15 is the bound of the universal perturbation.
    """

    origins: ClassVar[dict[str, str]] = {"epsilon": "ours: the bound of the trigger that it is the control for"}

    epsilon: Positive = 15.0

    def make(self, setting: Setting) -> Trigger:
        coin = torch.randint(0, 2, setting.train.shape, generator=setting.run.rng("signs"))
        return Additive((2.0 * coin - 1) * self.epsilon / 255).to(setting.run.device)
