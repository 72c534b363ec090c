"""Gaussian noise of the energy that the universal perturbation has: the control for its direction."""

from __future__ import annotations

from dataclasses import dataclass

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

    like: Design = UAP()

    def make(self, setting: Setting) -> Trigger:
        model = self.like.make(setting)
        assert isinstance(model, Additive)
        noise = torch.randn(setting.train.shape, generator=setting.run.rng("matched noise"))
        noise *= model.pattern.cpu().square().mean().sqrt() / noise.square().mean().sqrt()
        return Additive(noise).to(setting.run.device)
