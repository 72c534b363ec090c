"""Edge replacement: a purifier that paints over the edges of each input, where an edge-based trigger would be.

Paper: Zhang, Chen, Huang, Liao, Zhang, Feng, Hua, Yu, "Poison Ink: Robust and Invisible Backdoor Attack", IEEE TIP
2022, arXiv:2108.02488, Table XIII.

The paper replaces edges by one grey ("pure") or by the original image ("ori"). No defender has the latter; ours offers
instead to fill edges from their surroundings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.data.base import Dataset
from sidedoor.defenses.purifiers.base import Purifier, in_place
from sidedoor.engine import Run
from sidedoor.method import Bounds, Count
from sidedoor.tasks.task import Task
from sidedoor.triggers.ink import Pen
from sidedoor.types import Images, Index, Purify


@dataclass(frozen=True)
class EdgeReplacement(Purifier):
    """Replace edge pixels by a grey, or by the mean of the pixels around them that are not edges.

    Args:
        operator: "sobel", "scharr", "prewitt", "roberts" or "canny".
        threshold: strength above which a pixel is an edge, in 8-bit levels.
        width: of the edges, in pixels.
        fill: "grey" for the level `grey`, or "around".
        grey: in 8-bit levels.
    """

    origins: ClassVar[dict[str, str]] = {
        "operator": "paper: Table XIII", "threshold": "release: that of Poison Ink's own edges",
        "width": "ours: the edges alone", "fill": "paper: 'pure' of Table XIII", "grey": "paper: section V-H",
    }

    operator: str = "sobel"
    threshold: Annotated[float, Bounds(0.0, 255.0)] = 28.0
    width: Count = 1
    fill: Literal["grey", "around"] = "grey"
    grey: Annotated[float, Bounds(0.0, 255.0)] = 125.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._pen()

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Purify:
        pen = self._pen()

        def purify(x: Images, index: Index) -> Images:
            edges = pen.lines(x)
            replaced: Images = torch.where(edges, self.grey / 255 if self.fill == "grey" else around(x, edges), x)
            return replaced

        return in_place(purify)

    def _pen(self) -> Pen:
        return Pen(self.operator, self.threshold / 255, self.width)


def around(x: Images, hidden: Bool[Tensor, "b 1 h w"]) -> Images:
    """At each hidden pixel the mean of those within the smallest square about it that has any seen one; 0 if none has.

    Args:
        hidden: (b, 1, h, w), True or False.
    """
    seen = (~hidden).to(x.dtype)
    filled, known = x * seen, seen
    for reach in range(1, max(x.shape[2:])):
        size = 2 * reach + 1
        count = functional.avg_pool2d(seen, size, 1, reach, divisor_override=1)
        mean = functional.avg_pool2d(x * seen, size, 1, reach, divisor_override=1) / count.clamp(min=1)
        new = (known == 0) & (count > 0.5)
        filled, known = torch.where(new, mean, filled), torch.where(new, 1.0, known)
        if bool(known.all()):
            break
    return filled
