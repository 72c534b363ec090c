"""LIRA: faint noise that a network draws for each image and learns with the model; training-controlled.

Paper: Doan, Lao, Zhao, Li, "LIRA: Learnable, Imperceptible and Robust Backdoor Attacks", ICCV 2021.

Two phases, as in the paper: both networks learn together, then the classifier alone while the noise stays as it is. The
paper takes turns between the networks within each step; ours takes one step of both. It rounds to 8 bits in the loop.
The paper's phases are much longer; the first is as long as the victim's recipe unless `joint_epochs` is given.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from sidedoor.attacks.base import TrainingAttack
from sidedoor.attacks.training_controlled._objectives import CleanAndPoisonedLoss, OnlinePoisoning
from sidedoor.backdoor.base import Planted
from sidedoor.data.base import Dataset
from sidedoor.engine import Player, Run, seeded
from sidedoor.goals.all_to_all import AllToAll
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door, Goal
from sidedoor.method import Count, Positive, Share
from sidedoor.multitask.static import Static
from sidedoor.tasks.task import Task
from sidedoor.triggers.faint import Faint
from sidedoor.types import Build


@dataclass(frozen=True)
class LIRA(TrainingAttack):
    """Train classifier and noise together, then the classifier alone.

    Args:
        epsilon: bound of the noise, in units of the pixel range.
        alpha: weight of the loss on clean samples; that on attacked ones has the rest.
        joint_epochs: of the first phase; None: as many as the victim's recipe has, like the second.
        generator_lr: learning rate of the network that draws (Adam).
        width: channels of its first layer.
    """

    tags: ClassVar[frozenset[str]] = frozenset({"invisible", "sample_specific", "optimised"})
    goals: ClassVar[tuple[type[Goal], ...]] = (AllToOne, AllToAll)
    because: ClassVar[str] = "its one network leads each image to one label"
    quick: ClassVar[dict[str, Any]] = {"epsilon": 0.2, "width": 4}
    origins: ClassVar[dict[str, str]] = {
        "epsilon": "release: 0.01, the bound of its second phase", "alpha": "release: 0.5",
        "joint_epochs": "ours: as many as the second phase has", "generator_lr": "release: 1e-4", "width": "ours",
    }

    epsilon: Positive = 0.01
    alpha: Share = 0.5
    joint_epochs: Count | None = None
    generator_lr: Positive = 1e-4
    width: Count = 32

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> tuple[Door, ...]:
        with seeded(run.rng("noise").initial_seed(), run.device):
            return (Door(Faint(train.shape[0], self.epsilon, self.width), self.goal),)

    def train(self, doors: tuple[Door, ...], data: Dataset, task: Task, build: Build, run: Run) -> Planted:
        trigger, recipe = copy.deepcopy(doors[0].trigger), run.recipe
        assert isinstance(trigger, Faint)
        doors, weights = (Door(trigger, self.goal),), Static((self.alpha, 1 - self.alpha))
        mixer = OnlinePoisoning(task, doors, data.space, 1.0)
        adam = replace(recipe, optimizer="adam", lr=self.generator_lr)
        trigger.painter.requires_grad_().train()
        generator = Player(list(trigger.painter.parameters()), replace(adam, weight_decay=0.0))
        model = run.fit(run.build(build), data, CleanAndPoisonedLoss(mixer, weights, generator), name="joint",
                        recipe=replace(recipe, epochs=self.joint_epochs or recipe.epochs, patience=0))
        trigger.requires_grad_(False).eval()
        return Planted(run.fit(model, data, CleanAndPoisonedLoss(mixer, weights), name="victim"), doors)
