"""Super-fine-tuning (SFT): a repair that fine-tunes with learning rates that go up and down, far above the usual ones.

Paper: Sha, He, Berrang, Humbert, Zhang, "Fine-Tuning Is All You Need to Mitigate Backdoor Attacks", 2022,
arXiv:2212.09067.

Large rates make the model forget the backdoor, small ones between them keep it on the task, and a constant one brings
it back to its accuracy. Rates are written as factors of the loss, which is the same for SGD without momentum and weight
decay, as the paper's is. The published epochs are stated as steps, since an epoch of few samples is a step or two.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.short_training import for_steps
from sidedoor.data.base import Dataset
from sidedoor.defenses.repair.base import Repair
from sidedoor.engine import Objective, Run
from sidedoor.method import Count, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Batch


@dataclass(frozen=True)
class SuperFineTuning(Repair):
    """Fine-tune with triangular cycles of the learning rate, then with a constant one.

    Args:
        steps: of SGD, rounded up to whole epochs.
        cyclic: share of the steps with cycles, in [0, 1].
        period: steps of a cycle, up and down.
        lowest: learning rate at the ends of a cycle.
        highest: in its middle.
        last: after the cycles.
        batch: samples a step, at most a quarter of them.
    """

    origins: ClassVar[dict[str, str]] = {
        "steps": "ours: 100 epochs in the release, of more images", "cyclic": "release: 40 of 100 epochs",
        "period": "release: 20", "lowest": "release: 0.03", "highest": "release: 2.5; a tenth of all rates on GTSRB",
        "last": "release: 0.05", "batch": "ours: of few images",
    }
    quick: ClassVar[dict[str, Any]] = {"steps": 4}

    steps: Count = 1000
    cyclic: Share = 0.4
    period: Count = 20
    lowest: Positive = 0.03
    highest: Positive = 2.5
    last: Positive = 0.05
    batch: Count = 64

    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        tuned = copy.deepcopy(model).requires_grad_(True)
        recipe = for_steps(run, clean, self.steps, self.batch, optimizer="sgd", lr=1.0, momentum=0.0, weight_decay=0.0,
                           schedule="constant", clip=0.0)
        return run.fit(tuned, clean, _Cyclic(self, task), name="super-fine-tuning", recipe=recipe)

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        if step >= self.cyclic * self.steps:
            return self.last
        height = 1 - abs(2 * (step % self.period) / self.period - 1)
        return self.lowest + (self.highest - self.lowest) * height


class _Cyclic(Objective):
    """The task's loss times the learning rate, for steps of size 1."""

    step: Tensor

    def __init__(self, method: SuperFineTuning, task: Task):
        super().__init__()
        self.method, self.task = method, task
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        rate = self.method.rate(int(self.step))
        self.step += 1
        return rate * self.task.loss(model, batch).mean()[None]
