"""Matched noise: Gaussian noise of the universal perturbation's energy, the control for its direction.

Paper: none; a control for the trigger of Jiang et al., arXiv:2407.10445.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sidedoor.trigger_designs.base import Design, Setting
from sidedoor.trigger_designs.uap import UAP
from sidedoor.triggers.additive import Additive
from sidedoor.triggers.base import Trigger


@dataclass(frozen=True)
class MatchedNoise(Design):
    """Make the perturbation, then add one draw of noise of the same root mean square instead.

    Args:
        like: the perturbation.
    """

    origins: ClassVar[dict[str, str]] = {"like": "ours: the trigger that it is the control for"}

    like: Design = UAP()

    def make(self, setting: Setting) -> Trigger:
        matched = self.like.make(setting)
        assert isinstance(matched, Additive)
        noise = torch.randn(setting.train.shape, generator=setting.run.rng("matched noise"))
        noise *= matched.pattern.cpu().square().mean().sqrt() / noise.square().mean().sqrt()
        return Additive(noise).to(setting.run.device)
