"""Distance-driven detoxification (D3): a repair that takes the head as far from the old one as its norm allows.

Paper: Wei, Liu, Zha, "Backdoor Mitigation by Distance-Driven Detoxification", ICCV 2025, arXiv:2411.09585.

The objective is λ·mean(max(CE - floor, 0)) - ‖W - W₀‖, in the Frobenius norm, for the head's weight W, kept at the norm
of the given W₀: samples that are classified well enough have no gradient, and the distance is at most 2‖W₀‖. Of the
release's starts this is the recommended one, a random head; its range does not matter, since it is scaled. The head's
bias is drawn anew, too.

Triggered images leave the target, and many of them do not return to their own class: read R-Acc beside ASR.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.new_head import FixedNormHead, tuning, with_new_head
from sidedoor.data.base import Dataset
from sidedoor.defenses.repair.base import Repair
from sidedoor.engine import Run
from sidedoor.method import Count, NonNegative, Positive
from sidedoor.tasks.task import Task
from sidedoor.types import Batch


@dataclass(frozen=True)
class D3(Repair):
    """Fine-tune everything with a new head whose distance from the old one is maximised.

    Args:
        steps: of fine-tuning.
        batch: samples a step, at most.
        lr: peak learning rate of SGD, with a cosine schedule and no weight decay.
        weight: λ of the loss on samples beside the distance; above 1 both are divided by λ + 1.
        floor: cross-entropy below which a sample is learned well enough.

    Raises:
        NotApplicable: the model has no head.
    """

    origins: ClassVar[dict[str, str]] = {
        "steps": "release: 100 epochs over 2,500 images", "batch": "release", "lr": "release", "weight": "release",
        "floor": "release",
    }
    quick: ClassVar[dict[str, Any]] = {"steps": 4}

    steps: Count = 1000
    batch: Count = 256
    lr: Positive = 0.01
    weight: NonNegative = 0.5
    floor: NonNegative = 0.1

    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        recipe = tuning(run, clean, self.steps, self.batch, self.lr)
        return run.fit(with_new_head(model, run), clean, _Distant(task, model, self.weight, self.floor),
                       name="distancing", recipe=recipe)


class _Distant(FixedNormHead):
    def __init__(self, task: Task, given: nn.Module, weight: float, floor: float) -> None:
        super().__init__(given)
        self.task, self.weight, self.floor = task, weight, floor

    def loss(self, model: nn.Module, batch: Batch, weight: Tensor) -> Float[Tensor, ""]:
        unlearned = (self.task.loss(model, batch) - self.floor).relu().mean()
        loss: Tensor = self.weight * unlearned - (weight - self.before).norm()
        return loss / (self.weight + 1) if self.weight > 1 else loss
