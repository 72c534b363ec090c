"""Adversarial weight masking (AWM): a repair that learns a mask on every weight against a universal perturbation.

Paper: Chai, Chen, "One-shot Neural Backdoor Erasing via Adversarial Weight Masking", NeurIPS 2022, arXiv:2207.04497.

A mask m in [0, 1] on each weight of the convolutions and linear layers before the head is trained to lower
α · L(x) + (1 - α) · L(x + δ) + γ‖m‖₁, where δ, of a bounded L1 norm and shared by all images, raises the loss: the
strongest trigger that is left. The masks become part of the weights; nothing is cut off, so that narrow networks keep
their channels. The release alternates between epochs of δ and of masks; ours takes a step of each for every batch. The
bound is stated for one value, so that it holds for images of any size, and x + δ is clipped to [0, 1].
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sidedoor.algorithms.optim.batch_norm import without_updates
from sidedoor.algorithms.short_training import for_steps
from sidedoor.data.base import Dataset
from sidedoor.defenses.repair.base import Repair
from sidedoor.engine import Objective, Run
from sidedoor.errors import NotApplicable
from sidedoor.method import Count, NonNegative, Positive, Share
from sidedoor.models.base import head
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Images


@dataclass(frozen=True)
class AWM(Repair):
    """Learn masks on weights by clean samples and the worst universal perturbation of them.

    Args:
        alpha: weight of the loss on clean images, in [0, 1]; the rest is that of perturbed ones.
        gamma: weight of the masks' sum.
        bound: mean absolute value of the perturbation, in [0, 1].
        perturbation_lr: step of its gradient ascent.
        mask_steps: of Adam on the masks, rounded up to whole epochs.
        lr: of the masks, constant.
        batch: samples a step, at most a quarter of them.

    Raises:
        NotApplicable: the model has no convolution or linear layer before its head.
    """

    origins: ClassVar[dict[str, str]] = {
        "alpha": "release: 0.9", "gamma": "release: 1e-8", "bound": "release: an L1 norm of 1000 of 3 x 32 x 32 values",
        "perturbation_lr": "release: 10", "mask_steps": "ours: 20 rounds of 5 epochs in the release, of more images",
        "lr": "release: 0.01", "batch": "ours: of few images",
    }
    quick: ClassVar[dict[str, Any]] = {"mask_steps": 4}

    alpha: Share = 0.9
    gamma: NonNegative = 1e-8
    bound: Share = 1000 / (3 * 32 * 32)
    perturbation_lr: Positive = 10.0
    mask_steps: Count = 1000
    lr: Positive = 0.01
    batch: Count = 64

    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        masked = copy.deepcopy(model)
        masks = add_masks(masked)
        recipe = for_steps(run, clean, self.mask_steps, self.batch, optimizer="adam", lr=self.lr, momentum=0.9,
                           weight_decay=0.0, schedule="constant", clip=0.0)
        run.fit(masked, clean, _Masking(self, list(masks.values()), clean, task), name="weight masks", recipe=recipe)
        for layer in masks:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        return masked.requires_grad_(True)


class Mask(nn.Module):
    """Multiply a weight by a mask of its shape, from 1."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.mask = nn.Parameter(torch.ones_like(weight, requires_grad=True))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def add_masks(model: nn.Module) -> dict[nn.Module, Mask]:
    """Put masks on the weights of convolutions and linear layers in place; nothing else is left to train.

    Returns:
        layer -> the mask on its weight.

    Raises:
        NotApplicable: there is no such layer before the head.
    """
    last = head(model)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear) and m is not last]
    if not layers:
        raise NotApplicable(f"{type(model).__name__} has no convolution or linear layer before its head, whose weights "
                            "could be masked")
    model.requires_grad_(False)
    masks: dict[nn.Module, Mask] = {layer: Mask(layer.weight.detach()) for layer in layers}
    for layer, mask in masks.items():
        parametrize.register_parametrization(layer, "weight", mask)
    return masks


class _Masking(Objective):
    """The loss of the masks; the perturbation goes on from batch to batch."""

    delta: Tensor

    def __init__(self, method: AWM, masks: Sequence[Mask], clean: Dataset, task: Task):
        super().__init__()
        self.method, self.masks, self.task = method, tuple(masks), task
        self.register_buffer("delta", torch.zeros(clean.shape))

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        alpha = self.method.alpha
        self.clip()
        self.delta = self.raised(model, batch)
        clean = self.task.loss(model, batch).mean()
        with without_updates(model):
            perturbed = self.task.loss(model, batch._replace(x=self.added(batch.x, self.delta))).mean()
        sparse = torch.stack([mask.mask.abs().sum() for mask in self.masks]).sum()
        return (alpha * clean + (1 - alpha) * perturbed + self.method.gamma * sparse)[None]

    def raised(self, model: nn.Module, batch: Batch) -> Float[Tensor, "c h w"]:
        """The perturbation after a step that raises the loss."""
        delta = self.delta.clone().requires_grad_(True)
        with without_updates(model):
            loss = self.task.loss(model, batch._replace(x=self.added(batch.x, delta))).mean()
        (slope,) = torch.autograd.grad(loss, delta)
        moved = delta.detach() + self.method.perturbation_lr * slope
        return moved * (self.method.bound / moved.abs().mean().clamp_min(1e-12)).clamp(max=1.0)

    @staticmethod
    def added(x: Images, delta: Float[Tensor, "c h w"]) -> Images:
        return (x + delta).clamp(0, 1)

    @torch.no_grad()
    def clip(self) -> None:
        """Bring the masks back to [0, 1]."""
        for mask in self.masks:
            mask.mask.clamp_(0, 1)

    def end_epoch(self, model: nn.Module, epoch: int) -> bool:
        self.clip()
        return False
