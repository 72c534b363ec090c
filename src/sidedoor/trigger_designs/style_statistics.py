"""Style statistics: the colours of one picture, by matching the channels' means and deviations.

Papers: Reinhard, Ashikhmin, Gooch, Shirley, "Color Transfer between Images", IEEE CG&A 2001; Huang, Belongie,
"Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", ICCV 2017, Eq. 8, here of pixels.

It stands for the style transfer of BAAT, whose network (ArtFlow) has weights that cannot be shipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sidedoor.data.pictures import PictureName, check_picture, picture
from sidedoor.method import Share
from sidedoor.trigger_designs.base import AttributeEditor, Setting
from sidedoor.triggers.base import Trigger
from sidedoor.triggers.style import Style


@dataclass(frozen=True)
class StyleStatistics(AttributeEditor):
    """Give every image the means and deviations of a picture's channels.

    Args:
        picture: whose colours are taken, see `picture`.
        strength: in [0, 1]; 1 takes them over entirely.

    Raises:
        ConfigError: an unknown picture.
    """

    origins: ClassVar[dict[str, str]] = {"picture": "ours: one that needs no file", "strength": "ours"}

    picture: PictureName = "bug"
    strength: Share = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        check_picture(self.picture)

    def make(self, setting: Setting) -> Trigger:
        return Style(picture(self.picture, setting.train.shape), self.strength).to(setting.run.device)
