"""TaCT: a patch that works on some source classes only, dirty-label, plus cover samples of other classes.

Paper: Tang, Wang, Tang, Zhang, "Demon in the Variant: Statistical Analysis of DNNs for Robust Backdoor Contamination
Detection", USENIX Security 2021, arXiv:1908.00686.

Stamped samples of other classes with their true labels (cover) teach the model to heed the source. The trigger is the
patch of BadNets. The rates are ours: for ten equal classes about 2 % of the set is poisoned and 1 % cover.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sidedoor.attacks.base import PoisoningAttack
from sidedoor.backdoor import select
from sidedoor.backdoor.base import Poison
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door, Goal
from sidedoor.goals.from_classes import FromClasses
from sidedoor.method import Count, Label, Share
from sidedoor.tasks.task import Task
from sidedoor.triggers.patch import Patch, checkerboard
from sidedoor.types import Build


@dataclass(frozen=True)
class TaCT(PoisoningAttack):
    """Stamp and relabel a share of the source classes; stamp and keep a share of the other ones.

    Args:
        source_classes: the labels on which the trigger works.
        rate: share of the source classes' samples, in [0, 1].
        cover_rate: share of the samples neither of a source class nor of the target, in [0, 1].
        size: edge of the patch in pixels.

    Raises:
        ConfigError: no source class, one given twice, or the target among them.
    """

    goals: ClassVar[tuple[type[Goal], ...]] = (AllToOne,)
    because: ClassVar[str] = "it leads its source classes to one target"
    origins: ClassVar[dict[str, str]] = {
        "rate": "ours: about 2 % of a set of ten classes", "source_classes": "ours: one class, the first free one",
        "cover_rate": "ours: about 1 % of a set of ten classes", "size": "ours: the patch of BadNets",
    }

    rate: Share = 0.2
    source_classes: tuple[Label, ...] = (1,)
    cover_rate: Share = 0.0125
    size: Count = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self._source_goal()

    def _source_goal(self) -> FromClasses:
        assert isinstance(self.goal, AllToOne)
        return FromClasses(self.goal.target_class, self.source_classes)

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> tuple[Door, ...]:
        return (Door(Patch(checkerboard(self.size)), self._source_goal()),)

    def rows(self, train: Dataset, task: Task, doors: tuple[Door, ...], run: Run) -> Poison:
        goal = self._source_goal()
        poison = select.random(train, task, doors, self.rate, run.rng("poison"))
        others = ~torch.isin(train.targets, torch.tensor((goal.target_class, *goal.source_classes)))
        return select.with_cover(poison, train, others, self.cover_rate, run.rng("cover"))
