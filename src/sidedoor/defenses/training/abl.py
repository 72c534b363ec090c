"""Anti-backdoor learning (ABL): a training defence that isolates the rows learned first, then unlearns them.

Paper: Li, Lyu, Koren, Lyu, Li, Ma, "Anti-Backdoor Learning: Training Clean Models on Poisoned Data", NeurIPS 2021,
arXiv:2110.11571.

The second stage (Eq. 3) is two phases, as in the released code: training continues on the rows that were not isolated,
then the loss of the isolated ones is ascended. Ours takes the sign of Eq. 2 from a batch's mean loss. The ascended loss
has no upper bound, so ours clips its gradient: a step of SGD then moves the weights by little more than
lr / (1 - momentum). That slows unlearning down: on the digits, after the five passes of the released code more of the
backdoor is left than without. After the default's twenty none is left either way, and the clipped model, whose loss on
the isolated rows has grown half as far, has kept more of its accuracy, with the trigger and without.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.local_gradient_ascent import LocalGradientAscent
from sidedoor.algorithms.splits import row_losses
from sidedoor.data.base import Dataset, Subset
from sidedoor.defenses.training.base import TrainingDefense
from sidedoor.engine import Objective, Run
from sidedoor.errors import ConfigError
from sidedoor.method import Count, NonNegative, Positive, Share
from sidedoor.tasks.task import Supervised, Task
from sidedoor.types import Batch, Build


@dataclass(frozen=True)
class ABL(TrainingDefense):
    """Train with local gradient ascent, isolate the rows of lowest loss, train on the rest, unlearn the isolated.

    Args:
        gamma: the loss that local gradient ascent holds batches at (Eq. 2).
        isolation_rate: share of the rows that is isolated, in [0, 1].
        isolation_epochs: passes with local gradient ascent.
        finetune_epochs: passes over the rows that were not isolated.
        unlearn_epochs: passes over the isolated rows.
        unlearn_lr: the constant learning rate of the ascent.
        clip: largest norm of the ascent's gradient.

    Raises:
        ConfigError: a task without a loss of each sample, or too few rows to isolate some and keep others.
    """

    origins: ClassVar[dict[str, str]] = {
        "gamma": "paper: section 4", "isolation_rate": "paper: section 4", "isolation_epochs": "paper: section 4",
        "finetune_epochs": "release: finetuning_epochs", "unlearn_lr": "release: lr_unlearning_init",
        "unlearn_epochs": "ours: what the other phases leave of the paper's 100 epochs; 5 in the released code",
        "clip": "ours: the loss that is ascended has no upper bound",
    }
    quick: ClassVar[dict[str, Any]] = {"isolation_epochs": 1, "finetune_epochs": 1, "unlearn_epochs": 1}

    gamma: NonNegative = 0.5
    isolation_rate: Share = 0.01
    isolation_epochs: Count = 20
    finetune_epochs: Count = 60
    unlearn_epochs: Count = 20
    unlearn_lr: Positive = 5e-4
    clip: Positive = 1.0

    def train(self, train: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        count = self.count(train, task)
        first = replace(run.recipe, epochs=self.isolation_epochs)
        last = replace(run.recipe, epochs=self.unlearn_epochs, lr=self.unlearn_lr, schedule="constant", clip=self.clip)
        model = run.fit(run.build(build), train, LocalGradientAscent(task, self.gamma), name="isolation", recipe=first)
        isolated, rest = isolate(model, train, task, count, run)
        model = run.fit(model, rest, Supervised(task), name="finetuning",
                        recipe=replace(first, epochs=self.finetune_epochs))
        return run.fit(model, isolated, Unlearning(task), name="unlearning", recipe=last)

    def count(self, train: Dataset, task: Task) -> int:
        """How many rows are isolated: at least two, for which batch statistics exist."""
        if not task.per_sample:
            raise ConfigError(f"ABL isolates rows by their loss, but {type(task).__name__} has a loss of batches only")
        count = max(2, round(self.isolation_rate * len(train)))
        if count >= len(train):
            raise ConfigError(f"isolating {count} of {len(train)} rows leaves none to train on; "
                              "lower `isolation_rate`")
        return count


class Unlearning(Objective):
    """Ascend the loss (the second term of Eq. 3)."""

    def __init__(self, task: Task):
        super().__init__()
        self.task = task

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        return -self.task.loss(model, batch).mean()[None]


def isolate(model: nn.Module, data: Dataset, task: Task, count: int, run: Run) -> tuple[Dataset, Dataset]:
    """(the `count` rows with the lowest loss, the rest)."""
    order = row_losses(model, data, task, run).argsort(stable=True)
    return Subset(data, order[:count].sort().values), Subset(data, order[count:].sort().values)
