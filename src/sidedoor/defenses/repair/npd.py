"""NPD: a repair by a neural polarizer, one linear layer inside the frozen model that filters the backdoor out.

Paper: Zhu, Wei, Zha, Wu, "Neural Polarizer: A Lightweight and Effective Backdoor Defense via Purifying Poisoned
Features", NeurIPS 2023, arXiv:2306.16697.

The layer, a 1×1 convolution from the identity and a batch normalisation, is trained on clean samples and on
perturbed ones: small perturbations that lead to the class which is second best for the sample stand for the trigger.
Perturbed images must keep the class that the image itself gets, and lose the second best of the perturbed image and
the class that they were led to. All other weights stay as they are.

Ours lies behind the last convolution whose output such a layer can be written into, where the paper's lies before one:
there it is linear on the convolution's output and becomes a part of it, and of the mean that batch normalisation
subtracts, so that what is delivered is a model of the same architecture. BackdoorBench delivers the model without the
layer, and takes the true label for the original class. The layer starts as the identity, also where its batch
normalisation takes the statistics of batches.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.optim.batch_norm import evaluating
from sidedoor.algorithms.short_training import for_steps
from sidedoor.data.base import Dataset
from sidedoor.defenses.repair._polarizer import Place, place_behind, write_in
from sidedoor.defenses.repair.base import Repair
from sidedoor.engine import Objective, Run
from sidedoor.method import Count, NonNegative, Positive, Share, Whole
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Images, Space


@dataclass(frozen=True)
class NPD(Repair):
    """Train one linear layer inside the model against perturbations that lead to the second best class.

    Args:
        warmup_steps: on clean samples alone, with batch statistics in the layer; 0 for none.
        warmup_lr: learning rate of these, constant.
        steps: of SGD, rounded up to whole epochs.
        lr: constant.
        batch: samples a step, at most a quarter of them.
        iterations: sign steps of the perturbation, at most.
        step: of a perturbation in every pixel, in [0, 1] units.
        ball: largest Euclidean norm of a perturbation.
        enough: the search ends once more than this share of the batch has reached its class.
        weight: of each of the three losses on perturbed images, beside that on clean ones.
    """

    origins: ClassVar[dict[str, str]] = {
        "warmup_steps": "release: 5 epochs of 2,500 images", "warmup_lr": "release", "lr": "release",
        "steps": "release: 50 epochs of 2,500 images", "batch": "ours: 128 in the release, of more images",
        "iterations": "release: 2", "step": "release: 0.1", "ball": "release: 3", "enough": "release: 0.6",
        "weight": "release: 0.4",
    }
    quick: ClassVar[dict[str, Any]] = {"warmup_steps": 4, "steps": 4}

    warmup_steps: Whole = 100
    warmup_lr: Positive = 1e-4
    steps: Count = 1000
    lr: Positive = 0.01
    batch: Count = 64
    iterations: Count = 2
    step: Positive = 0.1
    ball: Positive = 3.0
    enough: Share = 0.6
    weight: NonNegative = 0.4

    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        repaired, run = run.placed(copy.deepcopy(model)).eval().requires_grad_(False), replace(run, augment=None)
        place = place_behind(repaired, clean.shape)
        polarizer = place.insert(repaired, clean, run)
        if self.warmup_steps:
            recipe = for_steps(run, clean, self.warmup_steps, self.batch, optimizer="sgd", lr=self.warmup_lr,
                               momentum=0.9, weight_decay=0.0, schedule="constant", clip=0.0)
            run.fit(repaired, clean, _WarmUp(place), name="warm the polarizer up", recipe=recipe)
        recipe = for_steps(run, clean, self.steps, self.batch, optimizer="sgd", lr=self.lr, momentum=0.9,
                           weight_decay=5e-4, schedule="constant", clip=0.0)
        run.fit(repaired, clean, _Polarized(self, clean.space), name="polarizer", recipe=recipe)
        write_in(repaired, place, polarizer)
        return repaired.requires_grad_(True)


class _WarmUp(Objective):
    def __init__(self, place: Place):
        super().__init__()
        self.place = place

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        with evaluating(model):
            self.place.polarizer_of(model).norm.train()
            return functional.cross_entropy(model(batch.x), batch.y)[None]


class _Polarized(Objective):
    def __init__(self, method: NPD, space: Space):
        super().__init__()
        self.method, self.space = method, space

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        with evaluating(model):
            with torch.no_grad():
                seen = model(batch.x)
            x, led = towards_second_best(model, batch.x, batch.y, seen, self.method, self.space)
            clean, moved = model(torch.cat([batch.x, x])).chunk(2)
        away = torch.log(1.0001 - torch.softmax(moved, 1))
        losses = [functional.cross_entropy(moved, seen.argmax(1)), functional.nll_loss(away, led),
                  functional.nll_loss(away, others_best(moved, batch.y))]
        return (functional.cross_entropy(clean, batch.y) + self.method.weight * torch.stack(losses).sum())[None]


def others_best(logits: Tensor, y: Tensor) -> Tensor:
    """The most probable class of each row, its own left out."""
    return logits.detach().scatter(1, y[:, None], -torch.inf).argmax(1)


def towards_second_best(model: nn.Module, x: Images, y: Tensor, logits: Tensor, how: NPD, space: Space) \
        -> tuple[Images, Tensor]:
    """Perturbed images within the ball that lead to the second best class, and these classes.

    Args:
        logits: of the images.
    """
    wanted, delta = others_best(logits, y), torch.zeros_like(x)
    for _ in range(how.iterations):
        delta = delta.detach().requires_grad_(True)
        found = model((x + delta).clamp(space.low, space.high))
        if (found.argmax(1) == wanted).float().mean() > how.enough:
            break
        (slope,) = torch.autograd.grad(functional.cross_entropy(found, wanted, reduction="sum"), delta)
        delta = delta.detach() - how.step * slope.sign()
        norms = delta.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
        delta = delta * (how.ball / norms).clamp(max=1)
    return (x + delta).clamp(space.low, space.high).detach(), wanted
