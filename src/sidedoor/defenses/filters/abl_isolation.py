"""ABL isolation: a data filter that suspects the rows whose loss falls first.

Paper: Li, Lyu, Koren, Lyu, Li, Ma, "Anti-Backdoor Learning: Training Clean Models on Poisoned Data", NeurIPS 2021,
arXiv:2110.11571.

The first stage of the training defence `abl` by itself. The paper isolates the rows of lowest loss after local gradient
ascent, by the loss at one moment; ours takes the mean loss of each row over the first epochs of ordinary training, as
the loop meets it: augmented, before the step, and with the statistics of its batch, since running ones lag behind.
Scores are not standardised within classes: the target class is learned first, and a standardisation would hide it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.data.base import Dataset
from sidedoor.defenses.filters.base import DataFilter
from sidedoor.engine import Objective, Run
from sidedoor.errors import ConfigError
from sidedoor.method import Share
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Build


@dataclass(frozen=True)
class ABLIsolation(DataFilter):
    """Score rows by minus their mean loss over the first epochs of training.

    It works where poison is learned first. Of a few rows a trigger is learned last, and they score lowest.

    Args:
        early: share of the recipe's epochs that count, in [0, 1]; at least one does, and no more are trained.

    Raises:
        ConfigError: a task without a loss of each sample.
    """

    origins: ClassVar[dict[str, str]] = {"early": "ours: the paper's 20 of 100 epochs, for recipes of fewer"}
    sign_tested_in: ClassVar[str] = "tests/defenses/test_abl_isolation.py::test_rows_with_an_easy_feature_score_highest"

    early: Share = 1 / 3

    def score(self, train: Dataset, task: Task, build: Build, run: Run) -> Float[Tensor, "n"]:
        """Minus the mean loss; that of a row which no batch held is the median."""
        if not task.per_sample:
            raise ConfigError(f"ABL isolates rows by their loss, but {type(task).__name__} has a loss of batches only")
        objective = LossTrajectory(task, train, max(1, round(self.early * run.recipe.epochs)))
        run.fit(run.build(build), train, objective, name="isolation", recipe=replace(run.recipe, patience=0))
        mean = (objective.total / objective.count).cpu()
        return -torch.where(mean.isnan(), mean.nanmedian(), mean)[train.position(torch.arange(len(train)))]


class LossTrajectory(Objective):
    """The task's loss for some epochs, and what each row had of it, by its position.

    Args:
        epochs: after which it stops.
    """

    total: Tensor
    count: Tensor
    fresh: Tensor
    run: Run

    def __init__(self, task: Task, data: Dataset, epochs: int):
        super().__init__()
        self.task, self.epochs = task, epochs
        size = int(data.position(torch.arange(len(data))).max()) + 1
        self.register_buffer("total", torch.zeros(size))
        self.register_buffer("count", torch.zeros(size))
        self.register_buffer("fresh", torch.zeros(2, size), persistent=False)

    def start(self, model: nn.Module, run: Run) -> None:
        self.run = run

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        loss = self.task.loss(model, batch)
        self.fresh[0].index_add_(0, batch.index, loss.detach().float())
        self.fresh[1].index_add_(0, batch.index, torch.ones_like(loss, dtype=torch.float))
        return loss.mean()[None]

    def end_epoch(self, model: nn.Module, epoch: int) -> bool:
        """What all ranks saw becomes one, so that a checkpoint holds it."""
        seen: Any = self.run.fabric.all_reduce(self.fresh, reduce_op="sum")
        self.total += seen[0]
        self.count += seen[1]
        self.fresh.zero_()
        return epoch + 1 >= self.epochs
