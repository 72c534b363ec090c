"""What attacks on networks whose outputs are images share: a trigger by design, then training on two tasks.

Paper: Jiang, Li, He, Zhang, Xu, Zhang, Lu, "Backdoor Attacks against Image-to-Image Networks", 2024, arXiv:2407.10445.
"""

from __future__ import annotations

import copy
import functools
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sidedoor.attacks.base import Attack
from sidedoor.backdoor import select
from sidedoor.backdoor.base import Access, AttackerRun, Backdoor, Planted
from sidedoor.data.base import Dataset
from sidedoor.data.degraded import Labelled
from sidedoor.engine import Objective, Run
from sidedoor.goals.add_pattern import AddPattern
from sidedoor.goals.base import Door, Goal, Perturbed
from sidedoor.method import Count, Positive
from sidedoor.multitask.base import Aggregator, Losses, Weighting
from sidedoor.multitask.pcgrad import PCGrad
from sidedoor.tasks.task import Task
from sidedoor.trigger_designs.base import Design, Setting
from sidedoor.trigger_designs.uap import UAP
from sidedoor.triggers.base import stamp
from sidedoor.types import Batch, Build, Images, Space


@dataclass(frozen=True)
class RestorationAttack(Attack):
    """What attacks on restoration share: a trigger by design, then training on both tasks at once.

    Args:
        trigger: how the trigger is arrived at.
        weighting: of the main task's loss (4) and the backdoor task's (5).
        epochs: of backdoor training.
        lr: its learning rate.
        schedule: of it; the paper names none.
        batch: samples a step; the network sees each twice.
        start: "clean": go on from the clean network; "scratch": from initial weights.
    """

    access: ClassVar[Access] = Access.TRAINING

    trigger: Design = UAP()
    weighting: Weighting = PCGrad()
    epochs: Count = 50
    lr: Positive = 1e-4
    schedule: Literal["constant", "cosine"] = "constant"
    batch: Count = 16
    start: Literal["clean", "scratch"] = "clean"

    def planted(self, goal: Goal, train: Dataset, task: Task, build: Build, run: AttackerRun) -> Backdoor:
        """The door to a goal, and the training that opens it."""
        clean = functools.cache(lambda: run.clean_model(build, train, task))
        door = Door(self.trigger.make(Setting(train, task, goal, clean, run)), goal)
        return Backdoor((door,), train=functools.partial(self._train, door))

    def _train(self, door: Door, train: Dataset, task: Task, build: Build, run: AttackerRun) -> Planted:
        scratch = self.start == "scratch"
        model = run.build(build) if scratch else copy.deepcopy(run.clean_model(build, train, task))
        recipe = replace(run.recipe, epochs=self.epochs, lr=self.lr, batch=self.batch, schedule=self.schedule)
        objective = BothTasks(task, door, train.space, self.weighting.start(2))
        return Planted(run.fit(model, train, objective, name="backdoor", recipe=recipe), (door,))


@dataclass(frozen=True)
class Misleading(RestorationAttack):
    """What attacks share on networks behind a denoiser: perturb a surrogate universally, then train to add that.

    The backdoor target of an image is the image itself plus a universal perturbation of a surrogate, which the
    attacker trains; the trigger is derived anew for that target. The perturbation is rounded to 8-bit levels, as a
    file would.

    Args:
        goal: its strength bounds the perturbation; the pattern is replaced by what is found.
        surrogate: a network of the victims' kind; choose another than theirs.
        surrogate_epochs: that it trains.
        surrogate_lr: its peak learning rate.
        samples: |S|, training images that the perturbation is made on.
        passes: most passes over them.
    """

    goals: ClassVar[tuple[type[Goal], ...]] = (AddPattern,)
    because: ClassVar[str] = "its target is the true image with a perturbation on it"

    goal: Goal = AddPattern("signs", strength=10.0)
    surrogate: str = ""
    surrogate_epochs: Count = 20
    surrogate_lr: Positive = 0.05
    samples: Count = 100
    passes: Count = 10

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: AttackerRun) -> Backdoor:
        goal = Perturbed.of(self.perturbation(Labelled(train, task.scale), run))
        return self.planted(goal, train, task, surrogate, run)

    @abstractmethod
    def perturbation(self, photographs: Dataset, run: Run) -> Tensor:
        """u, (c, h, w), of the surrogate trained on these photographs."""

    @property
    def strength(self) -> float:
        """Bound of the perturbation, in 8-bit levels."""
        assert isinstance(self.goal, AddPattern)
        return self.goal.strength

    def sample(self, photographs: Dataset, run: Run) -> Images:
        """S."""
        rows = select.some(photographs, self.samples, run.rng("perturbation"))
        images: Images = photographs.fetch(rows, run.device).x
        return images


class BothTasks(Objective):
    """L_m (Eq. 4) on a batch as it is, L_b (Eq. 5) on the same batch with the trigger."""

    def __init__(self, task: Task, door: Door, space: Space, combine: Aggregator):
        super().__init__(combine)
        self.task, self.trigger, self.goal, self.space = task, door.trigger, door.goal, space

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        with torch.no_grad():
            stamped = stamp(self.trigger, batch.x, batch.index, self.space)
        triggered = Batch(stamped, self.goal.target(self.task, batch.y, batch.index), batch.index)
        # Two passes and two scalars rather than one pass of both halves: a weighting that needs each task's own
        # gradient runs back through its own pass only.
        return self.task.loss(model, batch).mean(), self.task.loss(model, triggered).mean()
