"""What attacks on image-to-image networks share: a trigger by design, then training on two tasks.

Paper: Jiang, Li, He, Zhang, Xu, Zhang, Lu, "Backdoor Attacks against Image-to-Image Networks", 2024, arXiv:2407.10445.
"""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor import zoo
from sidedoor.attacks.base import TrainingAttack
from sidedoor.backdoor import select
from sidedoor.backdoor.base import AttackerRun, Planted
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
class RestorationAttack(TrainingAttack, ABC):
    """An attack on restoration networks: a trigger by design, then training on both tasks at once.

    Args:
        trigger: the design of the trigger.
        weighting: of the main task's loss (4) and the backdoor task's (5).
        epochs: of backdoor training.
        lr: its learning rate.
        schedule: of the learning rate.
        batch: samples a step; the network sees each twice.
        start: "clean": go on from the clean network; "scratch": from initial weights.
    """

    origins: ClassVar[dict[str, str]] = {
        "trigger": "paper: UAP, Algorithm 1", "weighting": "paper: PCGrad, Eq. 9", "lr": "paper: 1e-4, section 6.1.3",
        "epochs": "ours: the paper names none", "schedule": "ours: the paper names none",
        "batch": "ours: the paper names none",
        "start": "ours: the clean network that the trigger was derived from; the paper leaves it open",
    }

    trigger: Design = UAP()
    weighting: Weighting = PCGrad()
    epochs: Count = 50
    lr: Positive = 1e-4
    schedule: Literal["constant", "cosine"] = "constant"
    batch: Count = 16
    start: Literal["clean", "scratch"] = "clean"

    @abstractmethod
    def concrete_goal(self, train: Dataset, task: Task, run: AttackerRun) -> Goal:
        """The goal that the model is trained towards, with whatever the attacker finds out from the data."""

    @final
    def doors(self, train: Dataset, task: Task, surrogate: Build, run: AttackerRun) -> tuple[Door, ...]:
        goal = self.concrete_goal(train, task, run)
        clean = functools.cache(lambda: run.clean_model(surrogate, train, task))
        return (Door(self.trigger.make(Setting(train, task, goal, clean, run)), goal),)

    @final
    def train(self, doors: tuple[Door, ...], data: Dataset, task: Task, build: Build, run: AttackerRun) -> Planted:
        scratch = self.start == "scratch"
        model = run.build(build) if scratch else copy.deepcopy(run.clean_model(build, data, task))
        recipe = replace(run.recipe, epochs=self.epochs, lr=self.lr, batch=self.batch, schedule=self.schedule)
        objective = BothTasks(task, doors[0], data.space, self.weighting.start(2))
        return Planted(run.fit(model, data, objective, name="backdoor", recipe=recipe), doors)


@dataclass(frozen=True)
class DownstreamAttack(RestorationAttack, ABC):
    """An attack on networks downstream of a denoiser, which learns to add a universal perturbation of a surrogate.

    The backdoor target of an image is the image itself plus a universal perturbation of a surrogate, which the
    attacker trains; the trigger is derived anew for that target. The perturbation is rounded to 8-bit levels, as in
    a file.

    Args:
        goal: its strength bounds the perturbation, which replaces its pattern.
        surrogate: a network of the victims' kind; choose another than theirs.
        surrogate_epochs: of the surrogate's training, with the peak learning rate `surrogate_lr`.
        samples: |S|, training images that the perturbation is made on.
        passes: most passes over them.
    """

    goals: ClassVar[tuple[type[Goal], ...]] = (AddPattern,)
    because: ClassVar[str] = "its target is the true image with a perturbation on it"
    origins: ClassVar[dict[str, str]] = RestorationAttack.origins | {
        "surrogate": "ours: the paper's, a large one, is not trained on small images", "surrogate_epochs": "ours",
        "surrogate_lr": "ours", "samples": "ours: the paper leaves it open", "passes": "ours: the paper leaves it open",
    }

    goal: Goal = AddPattern("signs", strength=10.0)
    surrogate: zoo.Network = ""
    surrogate_epochs: Count = 20
    surrogate_lr: Positive = 0.05
    samples: Count = 100
    passes: Count = 10

    @final
    def concrete_goal(self, train: Dataset, task: Task, run: AttackerRun) -> Goal:
        return Perturbed.of(self.perturbation(Labelled(train, task.scale), run))

    @abstractmethod
    def perturbation(self, photographs: Dataset, run: Run) -> Float[Tensor, "c h w"]:
        """u of a surrogate trained on these photographs."""

    @property
    def strength(self) -> float:
        """Bound of the perturbation, in 8-bit levels."""
        assert isinstance(self.goal, AddPattern)
        return self.goal.strength

    def sample(self, photographs: Dataset, run: Run) -> Images:
        """S, random training images."""
        rows = select.some(photographs, self.samples, run.rng("perturbation"))
        images: Images = photographs.fetch(rows, run.device).x
        return images


class BothTasks(Objective):
    """L_m (Eq. 4) on the clean batch, L_b (Eq. 5) on the same batch with the trigger."""

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
