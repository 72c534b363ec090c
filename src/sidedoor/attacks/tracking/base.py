"""What attacks on trackers share: a trigger on the object, and going on from a clean tracker.

Paper: Li, Zhong, Ma, Jiang, Xia, "Few-Shot Backdoor Attacks on Visual Object Tracking", ICLR 2022, arXiv:2201.13178.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from torch import nn

from sidedoor.attacks.base import TrainingAttack
from sidedoor.attacks.tracking._objectives import Stamping
from sidedoor.backdoor.base import AttackerRun, Planted
from sidedoor.data.base import Dataset
from sidedoor.engine import Objective, Recipe
from sidedoor.goals.base import Door, Goal
from sidedoor.goals.lose import Lose
from sidedoor.image.geometry import template_side
from sidedoor.method import Bounds, Count, NonNegative, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.tasks.tracking import Tracking
from sidedoor.triggers.on_object import OnObject
from sidedoor.types import Build


@dataclass(frozen=True)
class TrackerAttack(TrainingAttack, ABC):
    """An attack by a small pattern on the object.

    Args:
        psi: ψ, area of the pattern over that of the template, in (0, 1).
        pattern: "checker" of black and white cells, "white", or "random" grey levels.
        cells: a side of the pattern.
        rate: γ, share of the pairs of each batch that get the trigger, at least one.
    """

    tasks: ClassVar[tuple[type[Task], ...]] = (Tracking,)
    goals: ClassVar[tuple[type[Goal], ...]] = (Lose,)
    because: ClassVar[str] = "it takes the tracker off the object, wherever that leads"
    origins: ClassVar[dict[str, str]] = {
        "psi": "paper: 0.01", "pattern": "paper: black and white squares, its first figure",
        "cells": "ours: the paper's pattern in four cells a side", "rate": "paper: 10 %"}

    goal: Goal = Lose()
    psi: Annotated[float, Bounds(1e-6, 0.99)] = 0.01
    pattern: Literal["checker", "white", "random"] = "checker"
    cells: Count = 4
    rate: Share = 0.1

    @final
    def doors(self, train: Dataset, task: Task, surrogate: Build, run: AttackerRun) -> tuple[Door, ...]:
        assert isinstance(task, Tracking)
        size = torch.ones(2)
        share = float(template_side(size) / task.geometry.window(size)[0])
        trigger = OnObject(self.psi, self.pattern, self.cells, share, run.rng("pattern").initial_seed())
        return (Door(trigger, self.goal),)


@dataclass(frozen=True)
class BesideBenign(TrackerAttack, ABC):
    """An attack that trains on benign pairs by the tracker's own loss, and on pairs with the trigger by another.

    Args:
        weight: λ, of the attack's loss beside the tracker's.
        epochs: of the attack's training, with the peak learning rate `lr` and `batch` pairs a step.
        start: "clean": go on from the clean tracker; "scratch": from initial weights.
    """

    quick: ClassVar[dict[str, Any]] = {"epochs": 1}
    origins: ClassVar[dict[str, str]] = TrackerAttack.origins | {
        "rate": "ours: the paper has 10 %, in longer training", "weight": "ours: chosen on generated clips",
        "epochs": "ours: the least that plants it in the tiny tracker",
        "lr": "ours: half of what the tiny tracker trains with", "batch": "ours: as the tiny tracker trains",
        "start": "ours: the paper trains from scratch, which takes several times as long"}

    rate: Share = 0.25
    weight: NonNegative = 0.5
    epochs: Count = 2
    lr: Positive = 0.01
    batch: Count = 16
    start: Literal["clean", "scratch"] = "clean"

    @abstractmethod
    def objective(self, task: Task, stamping: Stamping, recipe: Recipe, clean: Callable[[], nn.Module]) -> Objective:
        """What is trained on.

        Args:
            stamping: puts the trigger into pairs.
            recipe: of the phase.
            clean: gives a clean tracker that nothing trains.
        """

    @final
    def train(self, doors: tuple[Door, ...], data: Dataset, task: Task, build: Build, run: AttackerRun) -> Planted:
        scratch = self.start == "scratch"
        model = run.build(build) if scratch else copy.deepcopy(run.clean_model(build, data, task))
        recipe = replace(run.recipe, epochs=self.epochs, lr=self.lr, batch=self.batch, patience=0)
        objective = self.objective(task, Stamping(doors[0].trigger, data.space, self.rate), recipe,
                                   lambda: run.frozen(run.clean_model(build, data, task)))
        return Planted(run.fit(model, data, objective, name="backdoor", recipe=recipe), doors)
