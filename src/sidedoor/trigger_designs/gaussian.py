"""Gaussian noise: one noise image, drawn once and added to every input.

Paper: Chen, Ma, Lu, "Use Procedural Noise to Achieve Backdoor Attack", IEEE Access 2021; with the settings of Jiang et
al., arXiv:2407.10445, section 6.1.3.
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
class Gaussian(Design):
    """Draw the noise once and add it everywhere.

    Args:
        sigma: standard deviation in 8-bit levels.
    """

    origins: ClassVar[dict[str, str]] = {"sigma": "paper: 20, section 6.1.3 of arXiv:2407.10445"}

    sigma: Positive = 20.0

    def make(self, setting: Setting) -> Trigger:
        noise = torch.randn(setting.train.shape, generator=setting.run.rng("noise"))
        return Additive(noise * self.sigma / 255).to(setting.run.device)
