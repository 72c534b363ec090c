"""Unlearning a recovered trigger: a repair that reconstructs triggers by Neural Cleanse and trains on them.

Paper: Wang, Yao, Shan, Li, Viswanath, Zheng, Zhao, "Neural Cleanse: Identifying and Mitigating Backdoor Attacks in
Neural Networks", IEEE Symposium on Security and Privacy 2019, section VI.C.

The smallest trigger of every class is recovered, as the audit `neural_cleanse` does; the triggers of outliers by the
anomaly index are stamped on a share of the clean samples, which keep their labels, and the model is fine-tuned on them.
A model in which no class is an outlier is not repaired, and says so. What is no small pattern at a fixed place is
hardly recovered, and then not unlearned either.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.anomaly_index import anomaly_index
from sidedoor.algorithms.inversion.forms import Replaced
from sidedoor.algorithms.inversion.mask_pattern import Inversion, Recovered, Schedule, mask_norm
from sidedoor.algorithms.short_training import for_steps
from sidedoor.data.base import Dataset
from sidedoor.defenses.repair.base import Repair
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable, NothingFound
from sidedoor.method import Count, NonNegative, Positive, Share
from sidedoor.tasks.task import Supervised, Task
from sidedoor.types import Batch, Images, Space


@dataclass(frozen=True)
class UnlearnTrigger(Repair):
    """Recover a trigger for every class, and fine-tune on clean samples of which some carry the outliers.

    Args:
        epochs: most epochs of the search per class.
        samples: clean images per epoch of the search.
        threshold: anomaly index above which a class counts as a target.
        share: of the samples of a step that carry a trigger, at least one.
        steps: of fine-tuning.
        batch: samples a step, at most.
        lr: learning rate of SGD, constant.

    Raises:
        NotApplicable: no class is an outlier, or there are too few classes with a trigger to tell.
    """

    origins: ClassVar[dict[str, str]] = {
        "epochs": "ours: the release's 1000 of the audit end early, at about these on small data",
        "samples": "release", "threshold": "paper: an outlier with a probability over 95 %", "share": "paper",
        "steps": "ours: the paper's epoch is one over a tenth of the training data",
        "batch": "ours: open in the paper", "lr": "ours: open in the paper",
    }
    quick: ClassVar[dict[str, Any]] = {"epochs": 16, "samples": 24, "threshold": 0.0, "steps": 4}

    version: ClassVar[int] = 2  # where nothing is flagged the model counts as it is

    epochs: Count = 100
    samples: Count = 1000
    threshold: NonNegative = 2.0
    share: Share = 0.2
    steps: Count = 200
    batch: Count = 64
    lr: Positive = 0.01

    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        found = self._recovered(model, clean, task, run)
        targets = flagged(found, self.threshold)
        objective = _Stamped(task, found.mask[targets], found.pattern[targets], clean.space, self.share)
        recipe = for_steps(run, clean, self.steps, self.batch, optimizer="sgd", lr=self.lr, momentum=0.9,
                           weight_decay=0.0, schedule="constant")
        return run.fit(copy.deepcopy(model).requires_grad_(True), clean, objective, name="unlearn", recipe=recipe)

    def _recovered(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Recovered:
        """By the schedule of Neural Cleanse's release."""
        schedule = Schedule(cost=1e-3, raising=2.0, lowering=2.0**1.5, success=0.99, patience=5, stopping=25)
        inversion = Inversion((mask_norm,), schedule, self.epochs, self.samples, batch=32, lr=0.1)
        return inversion.recover(model, clean, range(task.classes), run)


def flagged(found: Recovered, threshold: float) -> list[int]:
    """The classes whose trigger is an outlier among all.

    Raises:
        NotApplicable: fewer than three classes.
        NothingFound: there are none, or a trigger for no more than half of the classes.
    """
    count, classes = int(found.success.sum()), len(found.success)
    if classes < 3:
        raise NotApplicable(f"{classes} classes given; an outlier needs at least three")
    if 2 * count <= classes:
        raise NothingFound(f"triggers of {count} of {classes} classes recovered; an outlier needs more than half: give "
                           "more epochs or more images")
    index = anomaly_index(found.norm)
    targets = torch.nonzero(found.success & (index > threshold))[:, 0].tolist()
    if not targets:
        raise NothingFound(f"nothing flagged: the largest anomaly index of a class is {index.max():.1f}, at most "
                           f"{threshold:g}, so there is no trigger to unlearn")
    return [int(k) for k in targets]


class _Stamped(Supervised):
    """The task's loss where the first samples of a batch carry a trigger, one of several in turn."""

    def __init__(self, task: Task, mask: Float[Tensor, "t 1 h w"], pattern: Float[Tensor, "t c h w"], space: Space,
                 share: float):
        super().__init__(task)
        self.register_buffer("mask", mask)
        self.register_buffer("pattern", pattern)
        self.space, self.share = space, share

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().losses(model, batch._replace(x=self.stamped(batch.x)))

    def stamped(self, x: Images) -> Images:
        mask, pattern = self.get_buffer("mask"), self.get_buffer("pattern")
        count = max(1, round(self.share * len(x)))
        place = torch.arange(count, device=x.device)
        each = Replaced().stamped(x[:count], mask[:, None], pattern[:, None], self.space)
        return torch.cat([each[place % len(mask), place], x[count:]])
