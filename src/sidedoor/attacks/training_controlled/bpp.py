"""BppAttack: images quantised to fewer levels a channel, with dithering; training-controlled.

Paper: Wang, Zhai, Ma, "BppAttack: Stealthy and Efficient Trojan Attacks against Deep Neural Networks via Image
Quantization and Contrastive Adversarial Learning", CVPR 2022, arXiv:2205.13383.

Negative samples with true labels teach the model to heed this quantisation only. They start from the residual of
another image's quantisation, as in the released code, and an adversarial attack then leads them towards the target
within half a step of the palette, which stands for the paper's adversarial negatives: 0 `iterations` give the released
ones. Ours draws both kinds sample by sample rather than in fixed numbers a batch, and attacks eligible samples only.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from sidedoor.algorithms.adversarial.pgd import Steps, ascended
from sidedoor.attacks.base import TrainingAttack
from sidedoor.attacks.training_controlled._objectives import NoiseSamples, OnlinePoisoning, check_shares
from sidedoor.backdoor.base import Planted
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.all_to_all import AllToAll
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door, Goal
from sidedoor.method import Bounds, Share, Whole
from sidedoor.tasks.task import Task
from sidedoor.triggers.base import Trigger
from sidedoor.triggers.quantized import Quantized
from sidedoor.types import Batch, Build, Images, Index


@dataclass(frozen=True)
class Bpp(TrainingAttack):
    """Train on batches in which some samples are quantised and lead to the goal, and others are negative samples.

    Args:
        rate: share of the eligible samples that is attacked in each epoch.
        negative_rate: share of all samples that are negative and keep their labels.
        levels: of each channel.
        iterations: sign steps of the attack that makes negative samples.

    Raises:
        ConfigError: the shares add up to more than 1.
    """

    tags: ClassVar[frozenset[str]] = frozenset({"sample_specific"})
    goals: ClassVar[tuple[type[Goal], ...]] = (AllToOne, AllToAll)
    because: ClassVar[str] = "its one quantisation leads each image to one label"
    origins: ClassVar[dict[str, str]] = {
        "rate": "release: 0.2", "negative_rate": "release: 0.2", "levels": "release: 8",
        "iterations": "ours: as many as cross the bound",
    }

    rate: Share = 0.2
    negative_rate: Share = 0.2
    levels: Annotated[int, Bounds(2, 256)] = 8
    iterations: Whole = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(rate=self.rate, negative_rate=self.negative_rate)

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> tuple[Door, ...]:
        return (Door(Quantized(self.levels), self.goal),)

    def train(self, doors: tuple[Door, ...], data: Dataset, task: Task, build: Build, run: Run) -> Planted:
        negatives = NoiseSamples(self.negative_rate, functools.partial(self._negative, task))
        objective = OnlinePoisoning(task, doors, data.space, self.rate, negatives)
        return Planted(run.fit(run.build(build), data, objective, name="victim"), doors)

    def _negative(self, task: Task, model: nn.Module, door: Door, batch: Batch, rows: Tensor) -> Trigger:
        x, y, index = batch.x[rows], batch.y[rows], batch.index[rows]
        other = batch.x.roll(1, 0)[rows]
        target = Batch(x, door.goal.target(task, y, index), index)
        bound = 0.5 / (self.levels - 1)
        was_training = model.training
        model.eval()
        with torch.enable_grad():  # also while a validation loss is taken
            made = ascended(lambda moved: -task.loss(model, target._replace(x=moved)).sum(), x,
                            Steps(bound, bound / 2, self.iterations), x + door.trigger(other, index) - other)
        model.train(was_training)
        return _Given(made)


class _Given(Trigger):
    """Replace all images by given ones."""

    def __init__(self, images: Images):
        super().__init__()
        self.images = images

    def forward(self, x: Images, index: Index) -> Images:
        return self.images
