"""BadNets: a small corner patch on dirty-label samples.

Paper: Gu, Dolan-Gavitt, Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain",
2017, arXiv:1708.06733.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Annotated, ClassVar

from jaxtyping import Float
from torch import Tensor

from sidedoor.attacks.base import PoisoningAttack, in_corners
from sidedoor.data.base import Dataset
from sidedoor.data.pictures import PictureName, bitmap, check_picture, picture
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.goals.base import Door
from sidedoor.method import LATER, Count, Whole
from sidedoor.tasks.task import Task
from sidedoor.triggers.patch import checkerboard
from sidedoor.types import Build


@dataclass(frozen=True)
class BadNets(PoisoningAttack):
    """Stamp a checkerboard patch on a share of the eligible samples and change their labels.

    Args:
        rate: share of the eligible training samples, in [0, 1].
        size: edge of the patch in pixels.
        margin: pixels between the patch and the image's edge.
        pattern: rows of 0 and 1, such as "001/010/101", or "line", "cross" or "compass", for a patch of its own; empty:
            the checkerboard.
        picture: an image file, such as one of a flower or of a sticker, for a patch of `size` pixels a side; or one of
            the other names of `picture`. Empty: a pattern.

    Raises:
        ConfigError: a pattern of anything else, an unknown picture, or both.
    """

    origins: ClassVar[dict[str, str]] = {
        "rate": "ours: 10 %, as in the comparisons of arXiv:2108.02488",
        "size": "ours: 3 pixels, as in the comparisons of arXiv:2108.02488",
        "margin": "ours: the patch touches the edges", "pattern": "ours: a checkerboard fits every size",
        "picture": "ours: none, which needs no file; the paper also has stickers of a flower and of a bomb",
    }

    size: Count = 3
    margin: Whole = 0
    pattern: str = ""
    picture: Annotated[PictureName, LATER] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pattern and self.picture:
            raise ConfigError(f"pattern = {self.pattern!r} and picture = {self.picture!r} given; expected one of them")
        if self.pattern:
            bitmap(self.pattern)
        if self.picture:
            check_picture(self.picture)

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> tuple[Door, ...]:
        return in_corners(self.goal, functools.partial(self._patch, train.shape[0]), self.margin)

    def _patch(self, channels: int, growth: int) -> Float[Tensor, "c h w"]:
        if self.picture:
            return picture(self.picture, (channels, self.size + growth, self.size + growth))
        if not self.pattern:
            return checkerboard(self.size + growth)
        return bitmap(self.pattern).repeat_interleave(1 + growth, 1).repeat_interleave(1 + growth, 2)
