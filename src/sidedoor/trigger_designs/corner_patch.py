"""Corner patch: a white square in the top left corner.

Paper: Gu, Dolan-Gavitt, Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain",
2017, arXiv:1708.06733; with the size of Jiang et al., arXiv:2407.10445, section 6.1.3: 16 of 128 pixels. They leave the
pattern open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sidedoor.method import Share
from sidedoor.trigger_designs.base import Design, Setting
from sidedoor.triggers.base import Trigger
from sidedoor.triggers.patch import Patch


@dataclass(frozen=True)
class CornerPatch(Design):
    """Make the square.

    Args:
        share: its side as a share of the image's shorter side; at least one pixel.
    """

    origins: ClassVar[dict[str, str]] = {"share": "paper: 16 of 128 pixels, section 6.1.3 of arXiv:2407.10445"}

    share: Share = 0.125

    def make(self, setting: Setting) -> Trigger:
        side = max(1, round(self.share * min(setting.train.shape[1:])))
        return Patch(torch.ones(1, side, side), "top left").to(setting.run.device)
