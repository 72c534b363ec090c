"""ULRL, unlearn and relearn: a repair that draws anew the rows of the head which unlearning changes most.

Paper: Min, Pham, Sun, "Unified Neural Backdoor Removal with Only Few Clean Samples through Unlearning and Relearning",
2024, arXiv:2405.14781.

Gradient ascent on clean samples changes the weights of a backdoor's target class more than others. Rows of the head
whose change is an outlier, at most two, are drawn anew, and the whole model is fine-tuned while these rows are pushed
away from where they were by the cosine. The release takes the first two outliers by index; ours the two largest. The
paper's neurons are those of the last layer, so they are classes; a model in which none is an outlier is not repaired.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.anomaly_index import anomaly_index
from sidedoor.algorithms.new_head import with_new_head
from sidedoor.algorithms.short_training import for_steps
from sidedoor.algorithms.unlearned import unlearned
from sidedoor.data.base import Dataset
from sidedoor.defenses.repair.base import Repair
from sidedoor.engine import Run
from sidedoor.errors import NothingFound
from sidedoor.method import Count, NonNegative, Positive
from sidedoor.models.base import head
from sidedoor.tasks.task import Supervised, Task
from sidedoor.types import Batch

MOST = 2


@dataclass(frozen=True)
class ULRL(Repair):
    """Ascend the loss, draw outlying rows of the head anew, and fine-tune away from what they were.

    Args:
        unlearn_steps: most steps of the ascent, which ends once accuracy is close to a guess.
        threshold: robust deviations above the median from which the change of a row is an outlier.
        steps: of fine-tuning.
        batch: samples a step, at most.
        lr: learning rate of both, of SGD; constant.
        alpha: weight of the cosine between the new rows and the old ones.

    Raises:
        NotApplicable: the model has no head.
        NothingFound: no row of it is an outlier.
    """

    origins: ClassVar[dict[str, str]] = {
        "unlearn_steps": "ours: the release's 20 epochs are over 500 images", "threshold": "release",
        "steps": "ours: the release's 20 epochs are over 500 images", "batch": "ours: the clean data are few",
        "lr": "release", "alpha": "release",
    }
    quick: ClassVar[dict[str, Any]] = {"unlearn_steps": 4, "threshold": 0.0, "steps": 4}

    version: ClassVar[int] = 2  # where no row stands out the model counts as it is

    unlearn_steps: Count = 80
    threshold: NonNegative = 3.5
    steps: Count = 200
    batch: Count = 64
    lr: Positive = 0.005
    alpha: NonNegative = 0.7

    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        ascent = for_steps(run, clean, self.unlearn_steps, self.batch, optimizer="sgd", lr=self.lr, momentum=0.9,
                           weight_decay=0.0, schedule="constant")
        guess = 1 / len(clean.classes)
        ascended = unlearned(model, clean, run, ascent, max(2 * guess, guess + 0.05), "unlearn")
        before = head(model).weight.detach().to(run.device)
        rows = outliers(before, head(ascended).weight.detach(), self.threshold)
        tuned = run.placed(copy.deepcopy(model)).requires_grad_(True)
        with torch.no_grad():
            head(tuned).weight[rows] = head(with_new_head(model, run)).weight[rows]
        recipe = for_steps(run, clean, self.steps, self.batch, optimizer="sgd", lr=self.lr, momentum=0.9,
                           weight_decay=0.0, schedule="constant")
        return run.fit(tuned, clean, _Away(task, before, rows, self.alpha), name="relearn", recipe=recipe)


def outliers(before: Float[Tensor, "k ..."], after: Float[Tensor, "k ..."], threshold: float) -> list[int]:
    """The rows that changed most, by Σ|Δw|: at most two, and only outliers among all.

    Raises:
        NothingFound: there are none.
    """
    index = anomaly_index(-(after - before).abs().flatten(1).sum(1).cpu())
    found = [int(row) for row in index.argsort(descending=True)[:MOST] if index[row] > threshold]
    if not found:
        raise NothingFound(f"no row of the head stands out: unlearning changes one by {index.max():.1f} robust "
                           f"deviations more than the median, at most {threshold:g}")
    return found


class _Away(Supervised):
    def __init__(self, task: Task, before: Tensor, rows: list[int], alpha: float):
        super().__init__(task)
        self.before, self.rows, self.alpha = before[rows].flatten(1), rows, alpha

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        now = head(model).weight[self.rows].flatten(1)
        return super().losses(model, batch) + self.alpha * functional.cosine_similarity(now, self.before).mean()
