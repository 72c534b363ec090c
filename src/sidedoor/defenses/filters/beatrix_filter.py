"""Beatrix as a data filter: Gram matrices of a row's feature maps beside those of clean images of its label.

Paper: Ma, Wang, Sun, Xue, Wen, Xiang, "The 'Beatrix' Resurrections: Robust Backdoor Detection via Gram Matrices", NDSS
2023, arXiv:2209.11715.

The score of the input detector `beatrix`, of a model trained on the suspected data, with the statistics of the class
that a row is labelled as in place of the predicted one. The paper tests classes as a whole for contamination; ours
ranks rows, and does not standardise within classes, since deviations are relative to bounds of clean images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from sidedoor.algorithms.features.cut import cut
from sidedoor.algorithms.features.gram import GramBounds
from sidedoor.algorithms.inspection import inspection_model
from sidedoor.data.base import Dataset
from sidedoor.defenses.filters.base import GuidedFilter
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.method import Count, NonNegative, Place
from sidedoor.tasks.task import Task
from sidedoor.types import Build


@dataclass(frozen=True)
class BeatrixFilter(GuidedFilter):
    """Score rows by how far their Gram entries leave the bounds of clean images of their label.

    Args:
        layer: stage of the network whose maps are looked at, among those with maps; -1 is the last.
        orders: powers of the features.
        bound: median absolute deviations from the median of a class to its bounds.
        channels: most channels that are looked at, chosen at random.

    Raises:
        ConfigError: no orders.
    """

    inspects: ClassVar[bool] = True
    origins: ClassVar[dict[str, str]] = {
        "layer": "ours: the stage before the last, as in the detector", "bound": "release",
        "orders": "ours: four of the release's 1 to 8, in half the time",
        "channels": "ours: entries grow with the square",
    }

    layer: Place = -2
    orders: tuple[Count, ...] = (1, 2, 4, 8)
    bound: NonNegative = 10.0
    channels: Count = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.orders:
            raise ConfigError("orders = () given; expected at least one power, such as 1")

    def score(self, train: Dataset, clean: Dataset, task: Task, build: Build, run: Run) -> Float[Tensor, "n"]:
        """Mean relative deviations, at least 0.

        Raises:
            NotApplicable: the network has no such stage, or a class no clean sample.
        """
        network = cut(run.frozen(inspection_model(train, task, build, run)), train.shape, self.layer)
        bounds = GramBounds.of(network, clean, self.channels, self.orders, self.bound, run)
        return run.per_sample(network.model, train, lambda batch: {
            "deviation": bounds.deviations(batch.x, batch.y, run)})["deviation"]
