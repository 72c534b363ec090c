"""FT-SAM: a repair that fine-tunes by sharpness-aware minimisation, with a perturbation that grows with the weights.

Paper: Zhu, Wei, Shen, Fan, Wu, "Enhancing Fine-Tuning Based Backdoor Defense with Sharpness-Aware Minimization", ICCV
2023, arXiv:2304.11823.

Units that serve a backdoor have larger weights than others, and a perturbation in proportion to |w| moves them most.
With g = ∇L(w) and T = |w|, over all parameters as one vector, a step takes the gradient at w + ε,
ε = rho · T² g / ‖T g‖; running statistics are those of the first pass alone. The paper trains 100 epochs of 2,500
images, which are 1,000 steps; on a small clean split the steps decide, so ours are stated.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.optim.at import at, carrying, gradients, norm, trained
from sidedoor.algorithms.optim.batch_norm import without_updates
from sidedoor.algorithms.short_training import for_steps
from sidedoor.data.base import Dataset
from sidedoor.defenses.repair.base import Repair
from sidedoor.engine import Objective, Run
from sidedoor.method import Count, NonNegative, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Batch


@dataclass(frozen=True)
class FTSAM(Repair):
    """Fine-tune on the clean samples with gradients taken at perturbed weights.

    Args:
        rho: size of the perturbation, the norm of ε / |w|; 0 is plain fine-tuning.
        smoothing: probability that the targets give to the other classes.
        steps: of SGD, rounded up to whole epochs.
        lr: peak learning rate, which falls to 0 as a cosine.
        batch: samples a step, at most a quarter of them.
    """

    origins: ClassVar[dict[str, str]] = {
        "rho": "release: 2 on CIFAR-10; 8 on GTSRB and Tiny ImageNet", "smoothing": "release: 0.1 on CIFAR-10; else 0",
        "steps": "paper: 100 epochs of ten", "lr": "release", "batch": "ours: 256 in the release, of more images",
    }
    quick: ClassVar[dict[str, Any]] = {"steps": 4}

    rho: NonNegative = 2.0
    smoothing: Share = 0.1
    steps: Count = 1000
    lr: Positive = 0.01
    batch: Count = 64

    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        tuned = copy.deepcopy(model).requires_grad_(True)
        recipe = for_steps(run, clean, self.steps, self.batch, optimizer="sgd", lr=self.lr, momentum=0.9,
                           weight_decay=5e-4, schedule="cosine", clip=0.0)
        return run.fit(tuned, clean, _SharpnessAware(self), name="sharpness-aware", recipe=recipe)


class _SharpnessAware(Objective):
    def __init__(self, method: FTSAM):
        super().__init__()
        self.method = method

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        parameters = trained(model)
        value = self._loss(model, batch)
        shift = adaptive(parameters, gradients(value, parameters), self.method.rho)
        with without_updates(model):
            return carrying(value, parameters, at(parameters, shift, lambda: self._loss(model, batch)))

    def _loss(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = model(batch.x)
        classes = logits.shape[1]
        # PyTorch spreads it over all classes, the true one among them; the paper over the others.
        spread = min(self.method.smoothing * classes / max(classes - 1, 1), 1.0)
        return functional.cross_entropy(logits, batch.y, label_smoothing=spread)


def adaptive(parameters: Sequence[Tensor], given: Sequence[Tensor], rho: float) -> list[Tensor]:
    """ε of the paper, by the gradients: ‖ε / |w|‖ = rho."""
    with torch.no_grad():
        scaled = [p.abs() * g for p, g in zip(parameters, given, strict=True)]
        factor = rho / (norm(scaled) + 1e-12)
        return [p.abs() * s * factor for p, s in zip(parameters, scaled, strict=True)]
