"""FTrojan: two raised frequencies of the colour channels in every block of dirty-label samples.

Paper: Wang, Yao, Xu, An, Tong, Wang, "An Invisible Black-Box Backdoor Attack through Frequency Domain", ECCV 2022,
arXiv:2107.11298.

Nothing is rounded before the image is stored. The released code rounds between its steps, in another colour space,
which costs a decibel of PSNR; `space = "YCrCb"` does the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from sidedoor.attacks.base import PoisoningAttack
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.base import Door
from sidedoor.method import LATER, Count, Positive
from sidedoor.tasks.task import Task
from sidedoor.triggers.frequency import Frequency
from sidedoor.types import Build


@dataclass(frozen=True)
class FTrojan(PoisoningAttack):
    """Raise frequencies of a share of the eligible samples and change their labels.

    Args:
        rate: share of the eligible training samples, in [0, 1].
        magnitude: added to each coefficient, in 8-bit levels; further targets have further multiples.
        window: side of a block in pixels.
        space: "YUV", as the paper says, or "YCrCb" in 8 bits, as in the released code; see `Frequency`.
    """

    tags: ClassVar[frozenset[str]] = frozenset({"invisible"})
    origins: ClassVar[dict[str, str]] = {
        "rate": "ours: 10 %, as in the comparisons of arXiv:2108.02488",
        "magnitude": "release: 20, for images of 32×32", "window": "release: 32 pixels",
        "space": "paper: the U and V channels",
    }

    magnitude: Positive = 20.0
    window: Count = 32
    space: Annotated[Literal["YUV", "YCrCb"], LATER] = "YUV"

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> tuple[Door, ...]:
        return tuple(Door(Frequency((k + 1) * self.magnitude / 255, self.window, self.space), goal)
                     for k, goal in enumerate(self.goal.parts()))
