"""Label-Consistent: corner patches on clean-label samples that PGD has made hard to recognise.

Paper: Turner, Tsipras, Madry, "Label-Consistent Backdoor Attacks", 2019, arXiv:1912.02771 (its adversarial variant).

The perturbation is PGD's on a network trained on the same data. The paper trains that network robustly, as `robust`
does; it is off by default because it takes ten times as long. The patch is in all four corners, as where the paper's
victims augment their data, but not fainter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from sidedoor.algorithms.adversarial.pgd import Steps, perturbed
from sidedoor.algorithms.adversarial.training import Robust
from sidedoor.attacks.base import Attack, surrogate_of
from sidedoor.backdoor import select
from sidedoor.backdoor.base import Access, Backdoor
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door, Goal
from sidedoor.method import LATER, Bounds, Count, NonNegative, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.triggers.chain import Chain
from sidedoor.triggers.patch import CORNERS, Patch, checkerboard
from sidedoor.types import Build


@dataclass(frozen=True)
class LabelConsistent(Attack):
    """Perturb and stamp a share of the target class, and leave the labels alone.

    Args:
        rate: share of the target class, in [0, 1].
        epsilon: bound of the perturbation, in 8-bit levels; `iterations` of a tenth of it each.
        size: edge of the patch in pixels.
        corners: how many of them carry the patch.
        robust: bound of the surrogate's adversarial training, in 8-bit levels; 0 trains it as usual.
    """

    access: ClassVar[Access] = Access.DATA
    tags: ClassVar[frozenset[str]] = frozenset({"clean_label"})
    goals: ClassVar[tuple[type[Goal], ...]] = (AllToOne,)
    because: ClassVar[str] = "it stamps samples that truly are of the one class it leads to"
    quick: ClassVar[dict[str, Any]] = {"iterations": 2}
    origins: ClassVar[dict[str, str]] = {
        "rate": "ours: half of the class; the paper takes several shares",
        "epsilon": "paper: 16, the middle one of its l_inf bounds",
        "iterations": "ours: three times as many steps as reach the bound", "size": "paper: 3×3 pixels",
        "corners": "paper: all four, where victims augment their data",
        "robust": "ours: off, because it takes ten times as long",
    }

    rate: Share = 0.5
    epsilon: Positive = 16.0
    iterations: Count = 30
    size: Count = 3
    corners: Annotated[int, Bounds(1, 4)] = 4
    robust: Annotated[NonNegative, LATER] = 0.0

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Backdoor:
        assert isinstance(self.goal, AllToOne)
        doors = (Door(Chain([Patch(checkerboard(self.size), corner) for corner in CORNERS[:self.corners]]), self.goal),)
        poison = select.of_class(train, doors, (self.goal.target_class,), self.rate, run.rng("poison"))
        objective = Robust(task.loss, self.robust) if self.robust else None
        model = surrogate_of(train, task, surrogate, run, objective)
        how = Steps(self.epsilon / 255, self.epsilon / 2550, self.iterations)
        return Backdoor(doors, replace(poison, images=perturbed(model, train, poison.index, how, doors[0].trigger)))
