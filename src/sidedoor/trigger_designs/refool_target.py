"""Reflection of the target: the backdoor's target image, reflected in every input.

Paper: Liu, Ma, Bailey, Lu, "Reflection Backdoor: A Natural Backdoor Attack on Deep Neural Networks", ECCV 2020,
arXiv:2007.02343; with the reflection ratio of Jiang et al., arXiv:2407.10445, section 6.1.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sidedoor.method import Share
from sidedoor.trigger_designs.base import Design, Setting
from sidedoor.triggers.base import Trigger
from sidedoor.triggers.reflection import Mode, Reflection


@dataclass(frozen=True)
class RefoolTarget(Design):
    """Mix the reflection in.

    Args:
        ratio: weight of the reflection in linear light.
        mode: of the reflection: "ghost", "focus" or "defocus".
    """

    origins: ClassVar[dict[str, str]] = {
        "ratio": "paper: 0.1, section 6.1.3 of arXiv:2407.10445", "mode": "ours: the paper names none",
    }

    ratio: Share = 0.1
    mode: Mode = "ghost"

    def make(self, setting: Setting) -> Trigger:
        return Reflection(setting.target()[0], 1 - self.ratio, self.mode).to(setting.run.device)
