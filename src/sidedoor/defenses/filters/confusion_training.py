"""Confusion training (CT): a data filter that unlearns everything but the trigger and asks which rows still fit.

Paper: Qi, Xie, Wang, Wu, Mahloujifar, Mittal, "Towards A Proactive ML Approach for Detecting Backdoor Poison Samples",
USENIX Security 2023, arXiv:2205.13616.

A model trained on the suspicious rows is trained on them further together with clean samples of wrong labels, new ones
in each step. What rows have in common with clean samples then leads nowhere, and only the trigger still predicts a
label. The rows of lowest loss are kept, ever fewer, for the next round to train on. The release has six rounds of
thousands of steps, and every second step shows clean samples only; ours has three, shows both in each step, with the
weight that comes to the same, and takes the wrong labels from the true ones rather than a model's. The release then
looks for classes whose features fall in two groups; ours ranks all rows by the loss alone.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sidedoor.algorithms.inspection import inspection_model
from sidedoor.algorithms.short_training import for_steps
from sidedoor.algorithms.splits import row_losses
from sidedoor.data.base import Dataset, Subset
from sidedoor.defenses.filters.base import GuidedFilter
from sidedoor.engine import Objective, Run
from sidedoor.errors import ConfigError, NotApplicable
from sidedoor.method import Count, NonNegative, Positive, Share
from sidedoor.tasks.task import Supervised, Task
from sidedoor.types import Batch, Build, joined

BATCH = 64
"""Rows a step, at most, and as many clean samples beside them."""


@dataclass(frozen=True)
class ConfusionTraining(GuidedFilter):
    """Score rows by minus their loss under a model that was confused about what clean samples look like.

    Args:
        kept: share of the rows that each round keeps for the next.
        pretraining: steps on the kept rows alone, in each round after the first.
        steps: of confusion in each round.
        weight: of the clean samples' wrong labels, beside the kept rows.
        lr: of confusion.
        momentum: of confusion.

    Raises:
        ConfigError: no round.
        NotApplicable: a single class, of which no label is wrong.
    """

    inspects: ClassVar[bool] = True
    origins: ClassVar[dict[str, str]] = {
        "kept": "ours: three of the release's five, 1/2 to 1/100", "pretraining": "ours: for a thousand rows",
        "steps": "ours: release: 2000 to 6000", "weight": "release: lambda = 20 in every second step, hence 39",
        "lr": "release: in the later rounds", "momentum": "release",
    }
    quick: ClassVar[dict[str, Any]] = {"kept": (0.5,), "pretraining": 20, "steps": 40}

    kept: tuple[Share, ...] = (1 / 2, 1 / 10, 1 / 50)
    pretraining: Count = 200
    steps: Count = 400
    weight: NonNegative = 39.0
    lr: Positive = 0.01
    momentum: Share = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kept:
            raise ConfigError("kept = () given; expected the share that each round keeps")

    def score(self, train: Dataset, clean: Dataset, task: Task, build: Build, run: Run) -> Float[Tensor, "n"]:
        """Minus the loss under the last round's model, at most 0."""
        if len(clean.classes) < 2:
            raise NotApplicable("a single class given; confusion training needs a wrong label")
        rows, loss = torch.arange(len(train)), torch.zeros(len(train))
        for number, share in enumerate((*self.kept, None)):
            model = self._trained(number, train, rows, task, build, run)
            own = Subset(train, rows)
            recipe = for_steps(run, own, self.steps, BATCH, lr=self.lr, momentum=self.momentum, schedule="constant")
            model = run.fit(model, own, Confusion(task, clean, self.weight), name=f"confusion {number}", recipe=recipe)
            loss = row_losses(model, train, task, run)
            rows = rows if share is None else lowest(loss, train.targets, share)
        return -loss

    def _trained(self, number: int, train: Dataset, rows: Int[Tensor, "m"], task: Task, build: Build, run: Run) \
            -> nn.Module:
        """A model of the rows that are left; in the first round what any trainer makes of all of them."""
        if number == 0:
            return copy.deepcopy(inspection_model(train, task, build, run))
        own, fresh = Subset(train, rows), run.within(f"round-{number}").build(build)
        return run.fit(fresh, own, Supervised(task), name=f"pretraining {number}",
                       recipe=for_steps(run, own, self.pretraining, BATCH))


class Confusion(Objective):
    """The task's loss on rows, and on clean samples whose labels are drawn anew from the wrong ones."""

    def __init__(self, task: Task, clean: Dataset, weight: float):
        super().__init__()
        self.task, self.clean, self.weight = task, clean, weight

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        clean = self.clean.fetch(torch.randint(len(self.clean), (len(batch.y),)), batch.x.device)
        classes = len(self.clean.classes)
        wrong = (clean.y + torch.randint(1, classes, clean.y.shape).to(clean.y)) % classes
        loss = self.task.loss(model, joined(clean._replace(y=wrong), batch)).float()
        confused, fitted = loss[: len(wrong)].mean(), loss[len(wrong) :].mean()
        return ((self.weight * confused + fitted) / (self.weight + 1))[None]


def lowest(loss: Float[Tensor, "n"], labels: Int[Tensor, "n"], share: float) -> Int[Tensor, "m"]:
    """The rows of lowest loss, and the lowest of each class in its turn: a model of a single class has nothing to tell.

    Args:
        share: of all rows; a tenth of it of each class, at least one row.
    """
    order = loss.argsort(stable=True)
    chosen = torch.zeros(len(loss), dtype=torch.bool)
    chosen[order[: max(2, round(share * len(loss)))]] = True
    for label in torch.unique(labels):
        own = order[labels[order] == label]
        chosen[own[: max(1, round(share / 10 * len(own)))]] = True
    return torch.nonzero(chosen)[:, 0]
