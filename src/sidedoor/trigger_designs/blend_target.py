"""Blend of the target: the backdoor's target image, mixed faintly into every input.

Paper: Chen, Liu, Li, Lu, Song, "Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning", 2017,
arXiv:1712.05526; with the settings of Jiang et al., arXiv:2407.10445, section 6.1.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sidedoor.method import Share
from sidedoor.trigger_designs.base import Design, Setting
from sidedoor.triggers.base import Trigger
from sidedoor.triggers.blend import Blend


@dataclass(frozen=True)
class BlendTarget(Design):
    """Mix the picture in.

    Args:
        ratio: weight of the picture.
    """

    origins: ClassVar[dict[str, str]] = {"ratio": "paper: 0.1, section 6.1.3 of arXiv:2407.10445"}

    ratio: Share = 0.1

    def make(self, setting: Setting) -> Trigger:
        return Blend(setting.target()[0], self.ratio).to(setting.run.device)
