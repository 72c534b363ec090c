"""BAAT: an attribute of the whole image as the trigger, such as its style, on clean-label samples.

Paper: Li, Zhu, Chen, Jiang, Xia, Xu, Tao, "BAAT: Backdoor Attack with Attribute Trigger", IEEE TDSC 2025 (the idea of
editing an attribute of each image instead of adding something to it).

The paper edits hair with HairCLIP and styles with ArtFlow, whose weights cannot be shipped. The editors here need no
network; figures are not the paper's. Any trigger design that is an `AttributeEditor` will do.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Annotated, ClassVar

from sidedoor.attacks.base import CleanLabelAttack, surrogate_of
from sidedoor.data.base import Dataset
from sidedoor.data.pictures import PictureName, check_picture
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.goals.base import Door
from sidedoor.method import LATER, Share
from sidedoor.tasks.task import Task
from sidedoor.trigger_designs.base import AttributeEditor, Design, Setting
from sidedoor.trigger_designs.style_statistics import StyleStatistics
from sidedoor.triggers.base import Trigger
from sidedoor.triggers.filter import FILTERS, Filter
from sidedoor.types import Build


@dataclass(frozen=True)
class BAAT(CleanLabelAttack):
    """Edit an attribute of a share of the target class and leave the labels alone.

    Args:
        rate: share of the target class, in [0, 1].
        style: a picture whose colours are taken (see `picture`), or "gotham", "nashville" or "kelvin"; without effect
            where an editor is given.
        strength: of a picture's colours, in [0, 1].
        editor: edits any other attribute, such as `slant_thickness`; None for the style.

    Raises:
        ConfigError: a strength of 0, an unknown style, or a design that edits no attribute.
    """

    tags: ClassVar[frozenset[str]] = frozenset({"sample_specific", "semantic"})
    origins: ClassVar[dict[str, str]] = {
        "rate": "release: 80 % of the target class (BackdoorBox, natural images)",
        "style": "ours: a picture that needs no file", "strength": "ours",
        "editor": "ours: style, as the paper's of natural images",
    }

    rate: Share = 0.8
    style: PictureName = "bug"
    strength: Share = 0.7
    editor: Annotated[Design | None, LATER] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strength == 0:
            raise ConfigError("BAAT.strength = 0 given; expected more, or nothing is edited")
        if self.style not in FILTERS:
            check_picture(self.style)
        if not isinstance(self.editor, AttributeEditor | None):
            raise ConfigError(f"BAAT.editor = {self.editor} given, which edits no attribute of images; expected a "
                              "design such as style_statistics, color_shift, sepia or slant_thickness")

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> tuple[Door, ...]:
        model = functools.cache(lambda: surrogate_of(train, task, surrogate, run))
        return (Door(self._trigger(Setting(train, task, self.goal, model, run)), self.goal),)

    def _trigger(self, setting: Setting) -> Trigger:
        if self.editor is not None:
            return self.editor.make(setting)
        if self.style in FILTERS:
            return Filter(self.style)
        return StyleStatistics(self.style, self.strength).make(setting)
