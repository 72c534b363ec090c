"""Beatrix: an input detector that compares Gram matrices of feature maps with those of clean images of the class.

Paper: Ma, Wang, Sun, Xue, Wen, Xiang, "The 'Beatrix' Resurrections: Robust Backdoor Detection via Gram Matrices", NDSS
2023, arXiv:2209.11715.

Made for sample-specific triggers, which leave features alone one by one and change how channels occur together. The
layer decides: on the digits the stage before the last separates better than the last, whose maps are all but the
answer. The paper counts on 30 clean images a class; with fewer, bounds are narrow by chance. Ours has fewer orders,
looks at a random choice of channels where there are many, and does not let bounds near 0 dominate, as the released 1e-6
beside them does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.features.cut import cut
from sidedoor.algorithms.features.gram import GramBounds
from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.defenses.detectors.base import Detect, InputDetector
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.method import Count, NonNegative, Place
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Index


@dataclass(frozen=True)
class Beatrix(InputDetector):
    """Score an input by how far its Gram entries leave the bounds of the class that it is predicted as.

    Args:
        layer: stage of the network whose maps are looked at, among those with maps; -1 is the last.
        orders: powers of the features.
        bound: median absolute deviations from the median of a class to its bounds.
        channels: most channels that are looked at, chosen at random.

    Raises:
        ConfigError: no orders.
    """

    origins: ClassVar[dict[str, str]] = {
        "layer": "ours: the stage before the last; see the module", "bound": "release",
        "orders": "ours: four of the release's 1 to 8, in half the time",
        "channels": "ours: entries grow with the square",
    }
    needs: ClassVar[Needs] = Needs(model="weights", clean="labelled")

    layer: Place = -2
    orders: tuple[Count, ...] = (1, 2, 4, 8)
    bound: NonNegative = 10.0
    channels: Count = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.orders:
            raise ConfigError("orders = () given; expected at least one power, such as 1")

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        """A function from inputs to mean relative deviations.

        Raises:
            NotApplicable: the network has no such stage, or a class no clean sample.
        """
        network = cut(run.frozen(model), clean.shape, self.layer)
        bounds = GramBounds.of(network, clean, self.channels, self.orders, self.bound, run)

        @torch.no_grad()
        def detect(x: Images, index: Index) -> Float[Tensor, "b"]:
            with run.autocast():
                return bounds.deviations(x, None, run)

        return detect
