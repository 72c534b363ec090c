"""Colour backdoor: one shift of all pixels in hue, saturation and value.

Paper: Jiang, Li, Xu, Zhang, "Color Backdoor: A Robust Poisoning Attack in Color Space", CVPR 2023.

The paper searches the shift; ours is given, and its default is not from the paper, which prints none for images like
these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from sidedoor.method import Bounds
from sidedoor.trigger_designs.base import AttributeEditor, Setting
from sidedoor.triggers.base import Trigger
from sidedoor.triggers.color import Color

Shift = Annotated[float, Bounds(-1.0, 1.0)]


@dataclass(frozen=True)
class ColorShift(AttributeEditor):
    """Shift hue (in turns), saturation and value of every pixel.

    Args:
        hue: in turns of the colour circle.
        saturation: in [-1, 1].
        value: in [-1, 1].
    """

    origins: ClassVar[dict[str, str]] = {
        "hue": "ours: no change", "saturation": "ours: no change", "value": "ours: the paper searches its shift",
    }

    hue: float = 0.0
    saturation: Shift = 0.0
    value: Shift = 0.1

    def make(self, setting: Setting) -> Trigger:
        return Color((self.hue, self.saturation, self.value)).to(setting.run.device)
