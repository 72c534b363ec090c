"""Non-adversarial backdoor with verified data (NAB-VD): NAB with pseudo-labels of a network that saw clean data alone.

Paper: Liu, Sangiovanni-Vincentelli, Yue, "Beating Backdoor Attack at Its Own Game", ICCV 2023, arXiv:2307.15539.

As `nab`, with one difference: isolated rows get the class that a network trained on the defender's clean samples gives
them, where `nab` takes the nearest centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from sidedoor.algorithms.short_training import for_steps
from sidedoor.data.base import Dataset
from sidedoor.defenses.training._non_adversarial import GreySquare, Isolation
from sidedoor.defenses.training.base import AidedTraining
from sidedoor.engine import Run
from sidedoor.method import Count, NonNegative, Share
from sidedoor.tasks.task import Supervised, Task
from sidedoor.types import Build


@dataclass(frozen=True)
class NABVD(AidedTraining):
    """Isolate rows, give them a clean network's labels and a stamp, train on all, and deliver the model behind it.

    Args:
        isolation_rate: share of the rows that is isolated, in [0, 1].
        gamma: the loss that local gradient ascent holds batches at.
        isolation_epochs: passes with local gradient ascent.
        steps: that the network of the clean samples is trained for, by the victim's recipe.
        batch: samples a step of it, at most a quarter of them.
        size: side of the stamp, a square in the top left corner, as a share of the image's shorter one.
        value: of its pixels, in [0, 1].

    Raises:
        ConfigError: a task without a loss of each sample.
    """

    origins: ClassVar[dict[str, str]] = {
        "isolation_rate": "release: 5 %", "gamma": "release", "isolation_epochs": "release",
        "steps": "ours: open here; few images are learned by then", "batch": "ours: of few images",
        "size": "release: 2 of 32 pixels",
        "value": "ours: the grey that is 0 to the zoo's networks, as the release's is to its own",
    }
    quick: ClassVar[dict[str, Any]] = {"isolation_epochs": 1, "steps": 4}

    isolation_rate: Share = 0.05
    gamma: NonNegative = 0.5
    isolation_epochs: Count = 20
    steps: Count = 1000
    batch: Count = 64
    size: Share = 2 / 32
    value: Share = 0.5

    def train(self, train: Dataset, clean: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        isolated = Isolation(self.isolation_rate, self.gamma, self.isolation_epochs).rows(train, task, build, run)
        recipe = for_steps(run, clean, self.steps, self.batch)
        verified = run.fit(run.build(build), clean, Supervised(task), name="verified", recipe=recipe)
        logits = run.per_sample(verified, train, lambda batch: {"logits": verified(batch.x)})["logits"]
        labels = torch.where(isolated, logits.argmax(1), train.targets)
        return GreySquare(self.size, self.value).train(train, labels, task, build, run)
