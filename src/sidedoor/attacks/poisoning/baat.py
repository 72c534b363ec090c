"""BAAT: an attribute of the whole image as the trigger, here its style, on clean-label samples.

Paper: Li, Zhu, Chen, Jiang, Xia, Xu, Tao, "BAAT: Backdoor Attack with Attribute Trigger", IEEE TDSC 2025 (the idea of
editing an attribute of each image instead of adding something to it).

The paper edits hair with HairCLIP and styles with ArtFlow, whose weights cannot be shipped. The closest that runs on
anything is a style that needs no network: the colours of one picture, or a filter; figures are not the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sidedoor.attacks.base import CleanLabelAttack
from sidedoor.data.base import Dataset
from sidedoor.data.pictures import PictureName, check_picture, picture
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.goals.base import Door
from sidedoor.method import Share
from sidedoor.tasks.task import Task
from sidedoor.triggers.base import Trigger
from sidedoor.triggers.filter import FILTERS, Filter
from sidedoor.triggers.style import Style
from sidedoor.types import Build


@dataclass(frozen=True)
class BAAT(CleanLabelAttack):
    """Edit the style of a share of the target class and leave the labels alone.

    Args:
        rate: share of the target class, in [0, 1].
        style: a picture whose colours are taken (see `picture`), or "gotham", "nashville" or "kelvin".
        strength: of a picture's colours, in [0, 1].

    Raises:
        ConfigError: a strength of 0, or an unknown style.
    """

    origins: ClassVar[dict[str, str]] = {
        "rate": "release: 80 % of the target class (BackdoorBox, natural images)",
        "style": "ours: a picture that needs no file", "strength": "ours",
    }

    rate: Share = 0.8
    style: PictureName = "bug"
    strength: Share = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strength == 0:
            raise ConfigError("BAAT.strength = 0 given; expected more, or nothing is edited")
        if self.style not in FILTERS:
            check_picture(self.style)

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> tuple[Door, ...]:
        return (Door(self._editor(train), self.goal),)

    def _editor(self, train: Dataset) -> Trigger:
        if self.style in FILTERS:
            return Filter(self.style)
        channels, height, width = train.shape
        return Style(picture(self.style, (channels, height, width)), self.strength)
