"""Proactive defensive backdoor (PDB): a training defence that plants a backdoor of its own, and asks by it alone.

Paper: Wei, Zha, Wu, "Mitigating Backdoor Attack by Injecting Proactive Defensive Backdoor", NeurIPS 2024,
arXiv:2405.16112.

A stamp that no file can hold leads each class y to h(y) = y + 1 mod k. It is learned on clean samples beside the
training data, and the model is delivered behind it: inputs are stamped, logits brought back by the inverse of h. The
malicious trigger then meets a network that has learned to follow the other one.

Attack success misleads here. Where the malicious trigger wins over the stamp, the network says t, and what is delivered
says h⁻¹(t): no success, and every triggered input is wrong. So look at the accuracy under the trigger, and at the
success of the shifted target h⁻¹(t), which an attacker who knows of the defence aims at. On the digits, with a few
hundred clean samples, the stamp wins over a patch on 2 % of the rows and loses to one on 10 %, where attack success is
0 all the same.

The paper takes the clean version of a tenth of the training rows, five times over; ours takes the defender's clean
samples as often. They are augmented as the victim's data are, and then stamped, so that the stamp is in training where
it is at test time; the release stamps first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.stamped import Stamped
from sidedoor.data.base import Dataset
from sidedoor.defenses.training.base import AidedTraining
from sidedoor.engine import Objective, Run
from sidedoor.method import Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.triggers.base import Trigger
from sidedoor.triggers.patch import Patch
from sidedoor.types import Batch, Build, joined


@dataclass(frozen=True)
class PDB(AidedTraining):
    """Train with a defensive backdoor, and deliver the model behind its stamp.

    Judge it by the accuracy under the trigger, and by the attack success of the class before the target as well as the
    target's: where the malicious trigger wins over the stamp, it now leads to that class.

    Args:
        size: side of the stamp, a square in the top left corner, as a share of the image's shorter one.
        value: of its pixels; outside [0, 1], so that no attacker can put it into a file.
        repeats: defensive samples for each sample of a batch.
    """

    origins: ClassVar[dict[str, str]] = {
        "size": "release: 7 of 32 pixels", "value": "release: 2", "repeats": "release: a tenth of the rows, five times",
    }

    size: Share = 7 / 32
    value: float = 2.0
    repeats: Positive = 0.5

    def train(self, train: Dataset, clean: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        side = max(1, round(self.size * min(train.shape[1:])))
        stamp = Patch(torch.full((1, side, side), self.value), "top left").to(run.device)
        objective = DefensiveBackdoor(task, clean, stamp, self.repeats)
        model = run.fit(run.build(build), train, objective, name="proactive")
        return Stamped(model, stamp, shifted(torch.arange(task.classes, device=run.device), task.classes)).eval()


class DefensiveBackdoor(Objective):
    """The task's loss over a batch and stamped clean samples of shifted labels beside it."""

    run: Run

    def __init__(self, task: Task, clean: Dataset, stamp: Trigger, repeats: float):
        super().__init__()
        self.task, self.clean, self.stamp, self.repeats = task, clean, stamp, repeats

    def start(self, model: nn.Module, run: Run) -> None:
        self.run = run

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        rows = torch.randint(len(self.clean), (max(1, round(self.repeats * len(batch.x))),))
        return self.task.loss(model, joined(batch, self.defensive(rows))).mean()[None]

    def defensive(self, rows: Tensor) -> Batch:
        """Rows of the clean samples, augmented, stamped, and called by the next class."""
        plain = self.clean.fetch(rows, self.run.device)
        x, y, index = self.run.augment(plain) if self.run.augment else plain
        return Batch(self.stamp(x, index), shifted(y, self.task.classes), index)


def shifted(y: Tensor, classes: int) -> Tensor:
    """What the stamp makes of a class."""
    return (y + 1) % classes
