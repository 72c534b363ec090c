"""ShrinkPad: a purifier that shrinks each input and pads it at random, so that a trigger is not where it was.

Paper: Li, Zhai, Jiang, Li, Xia, "Backdoor Attack in the Physical World", ICLR 2021 Workshop on Security and Safety in
Machine Learning Systems, arXiv:2104.02361.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from sidedoor.core import random
from sidedoor.data.base import Dataset
from sidedoor.defenses.purifiers.base import Purifier, require_room
from sidedoor.engine import Run
from sidedoor.image.geometry import resized, window
from sidedoor.method import Count
from sidedoor.tasks._image_output import Imaging
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Index, Purify


@dataclass(frozen=True)
class ShrinkPad(Purifier):
    """Resize inputs bilinearly to `shrink` pixels less a side and pad them with zeros at a random position.

    The position depends on the run's seed and the sample's index only. Outputs that are images of the input's size
    are cut out and enlarged again; others are left as they are.

    Args:
        shrink: pixels by which height and width are reduced.

    Raises:
        ConfigError: images that are not larger than `shrink`.
    """

    origins: ClassVar[dict[str, str]] = {"shrink": "paper: ShrinkPad-4"}
    tasks: ClassVar[tuple[type[Task], ...]] = (Classification, Imaging)
    because: ClassVar[str] = "it moves what images show, and nothing moves boxes back"

    shrink: Count = 4

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Purify:
        require_room("shrink", self.shrink, clean)
        seed = run.rng("positions").initial_seed()

        def purify(x: Images, index: Index) -> tuple[Images, Callable[[Any], Any]]:
            size = x.shape[-2:]
            small = resized(x, (size[0] - self.shrink, size[1] - self.shrink))
            corner = random.integers(seed, index, self.shrink + 1, 2)
            padded = functional.pad(small, [self.shrink] * 4)

            def undo(output: Any) -> Any:
                if not isinstance(output, Tensor) or output.ndim != 4 or output.shape[-2:] != size:
                    return output
                return resized(window(output, corner, small.shape[-2:]), size)

            return window(padded, self.shrink - corner, size), undo

        return purify
