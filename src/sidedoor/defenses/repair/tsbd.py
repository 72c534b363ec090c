"""TSBD: a two-stage repair that zeroes the neurons whose weights unlearning changes most, then fine-tunes.

Paper: Lin, Liu, Wei, Li, Xiong, "Unveiling and Mitigating Backdoor Vulnerabilities based on Unlearning Weight Changes
and Backdoor Activeness", NeurIPS 2024, arXiv:2405.20291.

A copy of the model unlearns the clean samples. The neurons of convolutions, shortcuts left out, are ranked by the sum
of what changed in their kernels; of the weights of the first ones the share that changed most is set to zero in the
model as it was given. Fine-tuning takes the gradient (1 - alpha) g(w) + alpha g(w + radius · g / ‖g‖), with the norm
of each tensor, which holds down gradients that grow around w, a sign of a backdoor coming back.

The release shows attack success for eleven shares of the neurons, the paper recommends 0.15; ours takes the largest
that keeps accuracy on the clean samples before fine-tuning. The paper's is `shares=(0.15,), largest_drop=1`. The copy
unlearns until its accuracy is that of guessing, where the release has 0.1 for any number of classes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sidedoor.algorithms.optim.at import at, carrying, gradients, trained
from sidedoor.algorithms.optim.batch_norm import without_updates
from sidedoor.algorithms.short_training import for_steps
from sidedoor.algorithms.unlearned import unlearned
from sidedoor.data.base import Dataset
from sidedoor.defenses.repair.base import TunedRepair
from sidedoor.engine import Objective, Run
from sidedoor.errors import NotApplicable
from sidedoor.method import Count, Positive, Share
from sidedoor.models.base import head
from sidedoor.tasks.task import Task
from sidedoor.types import Batch

SHORTCUTS = ("shortcut", "downsample")
"""Parts of the names of convolutions that are left out."""


@dataclass(frozen=True)
class TSBD(TunedRepair):
    """Zero neurons by how much unlearning changes them, and fine-tune with regularised gradients.

    Args:
        shares: of the neurons, that are tried.
        zeroed: share of these neurons' weights that is set to zero.
        unlearning_steps: of gradient ascent, at most, rounded up to whole epochs.
        unlearning_lr: its learning rate, constant.
        tuning_steps: of fine-tuning, rounded up to whole epochs.
        lr: peak learning rate of fine-tuning.
        batch: samples a step, at most a quarter of them.
        alpha: weight of the gradient at perturbed weights.
        radius: of the perturbation of each tensor.
    """

    origins: ClassVar[dict[str, str]] = {
        "largest_drop": "ours: the release chooses on test data", "shares": "release: these; 0.15 in the paper",
        "zeroed": "paper: 0.7", "unlearning_steps": "ours: a bound; 1,000 epochs in the release",
        "unlearning_lr": "release", "tuning_steps": "release: 21 epochs of 2,500 images", "lr": "release",
        "batch": "ours: 128 in the release, of more images", "alpha": "paper: 0.7", "radius": "paper: 0.05",
    }
    quick: ClassVar[dict[str, Any]] = {"unlearning_steps": 4, "tuning_steps": 4, "shares": (0.15, 0.9)}

    shares: tuple[Share, ...] = (0.01, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    zeroed: Share = 0.7
    unlearning_steps: Count = 5000
    unlearning_lr: Positive = 1e-4
    tuning_steps: Count = 420
    lr: Positive = 0.01
    batch: Count = 64
    alpha: Share = 0.7
    radius: Positive = 0.05

    def path(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Iterator[tuple[float, nn.Module]]:
        """Strengths are shares of the neurons."""
        names = kernels(model)
        recipe = for_steps(run, clean, self.unlearning_steps, self.batch, optimizer="sgd", lr=self.unlearning_lr,
                           momentum=0.9, weight_decay=0.0, schedule="constant", clip=0.0)
        forgotten = unlearned(model, clean, run, recipe, 1 / task.classes, "unlearn")
        given = run.placed(copy.deepcopy(model))
        changes = {name: (forgotten.get_parameter(name) - given.get_parameter(name)).detach().abs() for name in names}
        yield 0.0, given
        for share in sorted(self.shares):
            yield share, _zeroed(given, changes, share, self.zeroed)

    def finish(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        """Fine-tune; what was zeroed may grow again."""
        recipe = for_steps(run, clean, self.tuning_steps, self.batch, optimizer="sgd", lr=self.lr, momentum=0.9,
                           weight_decay=0.0, schedule="cosine", clip=0.0)
        return run.fit(model.requires_grad_(True), clean, _Regularised(self, task), name="fine-tune", recipe=recipe)


class _Regularised(Objective):
    def __init__(self, method: TSBD, task: Task):
        super().__init__()
        self.method, self.task = method, task

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        parameters, alpha = trained(model), self.method.alpha
        value = self.task.loss(model, batch).mean()
        here = gradients(value, parameters)
        shift = [self.method.radius * g / g.norm().clamp(min=1e-12) for g in here]
        with without_updates(model):
            there = at(parameters, shift, lambda: self.task.loss(model, batch).mean())
        return carrying(value, parameters, [(1 - alpha) * a + alpha * b for a, b in zip(here, there, strict=True)])


def kernels(model: nn.Module) -> list[str]:
    """Names of the weights of convolutions before the head, shortcuts left out.

    Raises:
        NotApplicable: there is none.
    """
    last = head(model)
    found = [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Conv2d)
             and module is not last and not any(part in name for part in SHORTCUTS)]
    if not found:
        raise NotApplicable(f"{type(model).__name__} has no convolution before its head, whose neurons could be zeroed")
    return found


@torch.no_grad()
def _zeroed(given: nn.Module, changes: dict[str, Tensor], share: float, zeroed: float) -> nn.Module:
    """A copy without most of the weights of the neurons that changed most."""
    model, scores = copy.deepcopy(given), torch.cat([change.flatten(1).sum(1) for change in changes.values()])
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen[scores.argsort(descending=True, stable=True)[: max(1, round(share * len(scores)))]] = True
    rows = dict(zip(changes, torch.split(chosen, [len(change) for change in changes.values()]), strict=True))
    values = torch.cat([changes[name][gone].flatten() for name, gone in rows.items()])
    # The threshold is a value itself, so that exactly this share goes.
    least = values.sort(descending=True).values[max(0, round(zeroed * len(values)) - 1)]
    for name, gone in rows.items():
        weight = model.get_parameter(name)
        weight[gone] = torch.where(changes[name][gone] >= least, 0.0, weight[gone])
    return model
