"""Refool: the reflection of another scene, one of several for each image, on dirty-label samples.

Paper: Liu, Ma, Bailey, Lu, "Reflection Backdoor: A Natural Backdoor Attack on Deep Neural Networks", ECCV 2020,
arXiv:2007.02343.

As it is compared with elsewhere: labels are changed, and reflections are drawn rather than chosen by their success.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from sidedoor import registry, zoo
from sidedoor.attacks.base import PoisoningAttack
from sidedoor.backdoor import select
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.base import Door
from sidedoor.image.geometry import like
from sidedoor.method import Count, Share
from sidedoor.tasks.task import Task
from sidedoor.triggers.reflection import Mode, Reflection
from sidedoor.types import Build


@dataclass(frozen=True)
class Refool(PoisoningAttack):
    """Mix reflections into a share of the eligible samples and change their labels.

    Args:
        rate: share of the eligible training samples, in [0, 1].
        scenes: the data set whose images are reflected, and `count`, how many; several targets share them out.
        transmission: weight of the image itself in linear light, in [0, 1].
        mode: "ghost": two reflexes, shifted; "focus": one, blurred; "defocus": one out of focus as in the release,
            with its range normalisation and its mask.

    Raises:
        ConfigError: no such data set.
    """

    tags: ClassVar[frozenset[str]] = frozenset({"sample_specific"})
    quick: ClassVar[dict[str, Any]] = {"count": 4}
    origins: ClassVar[dict[str, str]] = {
        "rate": "ours: 10 %, as in the comparisons of arXiv:2108.02488", "scenes": "ours: bundled photographs",
        "count": "ours: several, so that no single picture is the trigger",
        "transmission": "ours: within the range that the release draws from, 0.55 to 0.95",
        "mode": "ours: one kind throughout; the paper mixes its kinds",
    }

    scenes: zoo.DataName = "photos"
    count: Count = 20
    transmission: Share = 0.7
    mode: Mode = "ghost"

    def __post_init__(self) -> None:
        super().__post_init__()
        registry.reference("data", self.scenes)

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> tuple[Door, ...]:
        goals, scenes = self.goal.parts(), zoo.load(self.scenes, run.root).train
        rows = select.some(scenes, max(self.count, len(goals)), run.rng("scenes"))
        bank = like(scenes.fetch(rows).x, train.shape)
        return tuple(Door(Reflection(bank[k :: len(goals)], self.transmission, self.mode), goal)
                     for k, goal in enumerate(goals))
