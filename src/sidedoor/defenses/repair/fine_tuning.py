"""Fine-tuning: a repair that continues training on a few clean samples.

Paper: against image-to-image backdoors Jiang, Li, He, Zhang, Xu, Zhang, Lu, "Backdoor Attacks against Image-to-Image
Networks", 2024, arXiv:2407.10445, section 6.5, with a tenth of the training data and 10 to 50 epochs.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import nn

from sidedoor.data.base import Dataset
from sidedoor.defenses.repair.base import Repair
from sidedoor.engine import Run
from sidedoor.method import Count, Positive
from sidedoor.tasks.task import Supervised, Task


@dataclass(frozen=True)
class FineTuning(Repair):
    """Minimise the task's own loss on the defender's clean samples by Adam.

    Args:
        epochs: over those samples.
        lr: learning rate, constant.
        batch: samples per step.
    """

    origins: ClassVar[dict[str, str]] = {
        "epochs": "paper: the first of Table 8's 10 to 50", "lr": "ours: open in the paper",
        "batch": "ours: open in the paper; the defender's clean data are few",
    }
    quick: ClassVar[dict[str, Any]] = {"epochs": 1}
    tasks: ClassVar[tuple[type[Task], ...]] = (Task,)

    epochs: Count = 10
    lr: Positive = 1e-4
    batch: Count = 16

    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        tuned = copy.deepcopy(model).requires_grad_(True)
        recipe = replace(run.recipe, optimizer="adam", lr=self.lr, momentum=0.9, weight_decay=0.0,
                         schedule="constant", epochs=self.epochs, batch=self.batch)
        return run.fit(tuned, clean, Supervised(task), name="fine tuning", recipe=recipe)
