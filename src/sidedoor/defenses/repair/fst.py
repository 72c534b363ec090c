"""Feature shift tuning (FST): a repair that moves the head away from where it was, so that features must change.

Paper: Min, Qin, Shen, Cheng, "Towards Stable Backdoor Purification through Feature Shift Tuning", NeurIPS 2023,
arXiv:2310.01875.

At low poisoning rates features of triggered and clean images lie close together, and fine-tuning leaves them there. The
head W is drawn anew, and the whole model minimises CE + α⟨W, W₀⟩, where W₀ is the head that was given and the norm of W
stays that of W₀. The inner product is a sum over weights, no cosine. With α = 0 most of the effect is gone; `ft_init`
has neither the term nor the norm.
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
class FST(Repair):
    """Fine-tune everything with a new head that is pushed away from the old one.

    Args:
        steps: of fine-tuning.
        batch: samples a step, at most.
        lr: peak learning rate of SGD, with a cosine schedule and no weight decay.
        alpha: weight of the inner product with the old head; for many classes the release takes 0.

    Raises:
        NotApplicable: the model has no head.
    """

    origins: ClassVar[dict[str, str]] = {
        "steps": "ours: the release's 10 epochs over 1,000 images are 80, too few for small networks",
        "batch": "release", "lr": "release", "alpha": "release: its README for CIFAR-10; the flag's default is 0.2",
    }
    quick: ClassVar[dict[str, Any]] = {"steps": 4}

    steps: Count = 200
    batch: Count = 128
    lr: Positive = 0.01
    alpha: NonNegative = 0.1

    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        recipe = tuning(run, clean, self.steps, self.batch, self.lr)
        return run.fit(with_new_head(model, run), clean, _Shifted(task, model, self.alpha), name="feature shift",
                       recipe=recipe)


class _Shifted(FixedNormHead):
    def __init__(self, task: Task, given: nn.Module, alpha: float) -> None:
        super().__init__(given)
        self.task, self.alpha = task, alpha

    def loss(self, model: nn.Module, batch: Batch, weight: Tensor) -> Float[Tensor, ""]:
        return self.task.loss(model, batch).mean() + self.alpha * (weight * self.before).sum()
