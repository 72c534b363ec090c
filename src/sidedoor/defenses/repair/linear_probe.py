"""Linear probe: a repair that trains nothing but a new head, as a baseline for what features alone remember.

Paper: Min, Qin, Shen, Cheng, "Towards Stable Backdoor Purification through Feature Shift Tuning", NeurIPS 2023,
arXiv:2310.01875, where it shows that the features of a backdoored model keep the trigger apart.

All below the head stays bit for bit, statistics of batch normalisation included: the model is in evaluation mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from sidedoor.algorithms.new_head import tuning, with_new_head
from sidedoor.data.base import Dataset
from sidedoor.defenses.repair.base import Repair
from sidedoor.engine import Run
from sidedoor.method import Count, Positive
from sidedoor.models.base import head
from sidedoor.tasks.task import Supervised, Task
from sidedoor.types import Batch


@dataclass(frozen=True)
class LinearProbe(Repair):
    """Train a new head alone.

    Args:
        steps: of training.
        batch: samples a step, at most.
        lr: peak learning rate of SGD, with a cosine schedule and no weight decay.

    Raises:
        NotApplicable: the model has no head.
    """

    origins: ClassVar[dict[str, str]] = {
        "steps": "ours: as many as of FST", "batch": "release", "lr": "release",
    }
    quick: ClassVar[dict[str, Any]] = {"steps": 4}

    steps: Count = 200
    batch: Count = 128
    lr: Positive = 0.01

    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        tuned = with_new_head(model, run).requires_grad_(False)
        head(tuned).requires_grad_(True)
        recipe = tuning(run, clean, self.steps, self.batch, self.lr)
        return run.fit(tuned, clean, _Evaluating(task), name="probe", recipe=recipe).requires_grad_(True)


class _Evaluating(Supervised):
    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().losses(model.eval(), batch)
