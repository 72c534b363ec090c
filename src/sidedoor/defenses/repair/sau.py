"""SAU: shared adversarial unlearning, a repair that unlearns perturbations which mislead it and the given model alike.

Paper: Wei, Zhang, Zha, Wu, "Shared Adversarial Unlearning: Backdoor Mitigation by Unlearning Shared Adversarial
Examples", NeurIPS 2023, arXiv:2307.10562.

An adversarial example of the backdoored model is close to a triggered image; one that sends the model in repair to the
same wrong class shows what is left of the backdoor. For each batch such perturbations are searched for, within epsilon
of every pixel, and the model in repair is pulled away from the class that the given one then sees. Both stay in
evaluation mode, and nothing is augmented, as in the release.

The release does not keep perturbed images within [0, 1] (`clip=False`), starts with every pixel at +epsilon, and steps
by the whole bound. Its 100 epochs of 2,500 images are 1,000 steps of Adam.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.optim.batch_norm import evaluating
from sidedoor.algorithms.short_training import for_steps
from sidedoor.data.base import Dataset
from sidedoor.defenses.repair.base import Repair
from sidedoor.engine import Objective, Run
from sidedoor.method import Count, NonNegative, Positive
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Images, Space

ADVERSARIAL = 0.01
"""Weight of misleading either model, beside that of misleading both alike, in the search."""


@dataclass(frozen=True)
class SAU(Repair):
    """Unlearn adversarial examples that the model shares with the one that was given.

    Args:
        epsilon: bound of a perturbation in every pixel, in [0, 1] units, and size of a step.
        iterations: sign steps of the search.
        weight: of unlearning, beside the loss on clean samples.
        steps: of Adam, rounded up to whole epochs.
        lr: constant.
        batch: samples a step, at most a quarter of them.
        clip: whether perturbed images are kept within the range of images.
    """

    origins: ClassVar[dict[str, str]] = {
        "epsilon": "paper: 0.2", "iterations": "paper: 5", "weight": "release: 1", "steps": "paper: 100 epochs of ten",
        "lr": "release", "batch": "ours: 256 in the release, of more images", "clip": "ours: False in the release",
    }
    quick: ClassVar[dict[str, Any]] = {"steps": 4, "iterations": 2}

    epsilon: Positive = 0.2
    iterations: Count = 5
    weight: NonNegative = 1.0
    steps: Count = 1000
    lr: Positive = 1e-4
    batch: Count = 64
    clip: bool = True

    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        repaired = copy.deepcopy(model).requires_grad_(True)
        recipe = for_steps(run, clean, self.steps, self.batch, optimizer="adam", lr=self.lr, momentum=0.9,
                           weight_decay=0.0, schedule="constant", clip=0.0)
        objective = _Unlearning(self, run.frozen(model), clean.space)
        return replace(run, augment=None).fit(repaired, clean, objective, name="shared unlearning", recipe=recipe)


class _Unlearning(Objective):
    def __init__(self, method: SAU, reference: nn.Module, space: Space):
        super().__init__()
        self.method, self.space = method, space
        self.reference = [reference]  # in a list, so that it is no part of the phase's state

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        (reference,) = self.reference
        with evaluating(model):
            x = shared(model, reference, batch.x, batch.y, self.method, self.space)
            logits, moved = model(torch.cat([batch.x, x])).chunk(2)
            with torch.no_grad():
                before, after = reference(torch.cat([batch.x, x])).argmax(1).chunk(2)
        loss = functional.cross_entropy(logits, batch.y)
        return (loss + self.method.weight * unlearning(moved, batch.y, before, after))[None]


def unlearning(moved: Float[Tensor, "b k"], y: Int[Tensor, "b"], before: Int[Tensor, "b"],
               after: Int[Tensor, "b"]) -> Float[Tensor, ""]:
    """How probable the classes are that the given model sees in perturbed images, of those that mislead it.

    Args:
        moved: logits of the model in repair on perturbed images.
        before: classes that the given model sees in the images.
        after: those that it sees in perturbed ones.
    """
    misled = (after != y) & (after != before)
    p = torch.softmax(moved, 1).gather(1, after[:, None])[:, 0]
    terms = torch.log(1e-6 + (1 - p).clamp(max=0.999)) + torch.log(1 + 1e-6 - p.clamp(min=0.001))
    return -0.5 * (terms * misled).sum() / len(moved)


def shared(model: nn.Module, reference: nn.Module, x: Images, y: Int[Tensor, "b"], how: SAU, space: Space) -> Images:
    """Perturbed images that send both models, in evaluation mode, to the same wrong class where that is found.

    By sign steps that maximise the cross-entropies of images that do not mislead a model yet, and minimise the
    Jensen-Shannon divergence of the two outputs on images that do not mislead both alike.
    """
    low, high = (space.low, space.high) if how.clip else (-math.inf, math.inf)
    with torch.no_grad():
        seen, known = model(x).argmax(1), reference(x).argmax(1)
    moved = (x + how.epsilon).clamp(low, high)
    for _ in range(how.iterations):
        moved = moved.detach().requires_grad_(True)
        logits, other = model(moved), reference(moved)
        found, wanted = logits.argmax(1), other.argmax(1)
        fooled, misled = found != seen, wanted != known
        alike = fooled & misled & (found == wanted)
        if alike.all():
            break
        losses = ~fooled * functional.cross_entropy(logits, y, reduction="none") \
            + ~misled * functional.cross_entropy(other, y, reduction="none")
        apart = (~alike * divergence(torch.softmax(logits, 1), torch.softmax(other, 1))).sum()
        (slope,) = torch.autograd.grad(apart - 0.5 * ADVERSARIAL * losses.sum(), moved)
        moved = moved.detach() - how.epsilon * slope.sign()
        moved = torch.min(torch.max(moved, x - how.epsilon), x + how.epsilon).clamp(low, high)
    return moved.detach()


def divergence(p: Float[Tensor, "b k"], q: Float[Tensor, "b k"]) -> Float[Tensor, "b"]:
    """The Jensen-Shannon divergence of two distributions."""
    p, q = p.clamp(min=1e-8), q.clamp(min=1e-8)
    middle = (p + q) / 2
    return 0.5 * (p * p.log() + q * q.log()).sum(1) - (middle * middle.log()).sum(1)
