"""Instagram filter: the look of a photograph app as the trigger.

Paper: Liu, Lee, Tao, Ma, Aafer, Zhang, "ABS: Scanning Neural Networks for Back-doors by Artificial Brain Stimulation",
CCS 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from sidedoor.trigger_designs.base import AttributeEditor, Setting
from sidedoor.triggers.base import Trigger
from sidedoor.triggers.filter import Filter


@dataclass(frozen=True)
class Instagram(AttributeEditor):
    """Apply a named look to every input.

    Args:
        look: the filter.
    """

    origins: ClassVar[dict[str, str]] = {"look": "ours: one of the paper's five"}

    look: Literal["gotham", "nashville", "kelvin"] = "gotham"

    def make(self, setting: Setting) -> Trigger:
        return Filter(self.look).to(setting.run.device)
