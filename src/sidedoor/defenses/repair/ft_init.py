"""FT-init: a repair that draws the head anew, then fine-tunes everything.

Paper: Min, Qin, Shen, Cheng, "Towards Stable Backdoor Purification through Feature Shift Tuning", NeurIPS 2023,
arXiv:2310.01875, as a step towards FST: here the head is neither pushed from the old one nor kept at its norm. The
release scales the head in all of its modes, so that its figures of FT-init are of something else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from sidedoor.algorithms.new_head import tuning, with_new_head
from sidedoor.data.base import Dataset
from sidedoor.defenses.repair.base import Repair
from sidedoor.engine import Run
from sidedoor.method import Count, Positive
from sidedoor.tasks.task import Supervised, Task


@dataclass(frozen=True)
class FTInit(Repair):
    """Fine-tune everything with a new head.

    Args:
        steps: of fine-tuning.
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
        recipe = tuning(run, clean, self.steps, self.batch, self.lr)
        return run.fit(with_new_head(model, run), clean, Supervised(task), name="fine-tune", recipe=recipe)
