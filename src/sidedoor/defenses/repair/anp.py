"""ANP: adversarial neuron pruning, a repair that cuts off channels which a perturbation of the network wakes up.

Paper: Wu, Wang, "Adversarial Neuron Pruning Purifies Backdoored Deep Models", NeurIPS 2021, arXiv:2110.14430.

A mask m on every channel is trained on clean samples to keep their loss low without noise and with the worst noise n on
scales and biases, alpha · L(m) + (1 - alpha) · max L(m + n, 1 + n'); the channels of a backdoor, which noise makes fire
on clean images, lose their masks. Those with a mask up to a threshold are pruned from the model as it was given; biases
stay. The premise is spare capacity: in narrow networks the channels of a backdoor serve the task as well.

Published figures take the threshold of least attack success on test data. Ours takes the largest that keeps accuracy on
the clean samples; the fixed one of the paper is `thresholds=(0.2,), largest_drop=1`. As in the release, noise is drawn
within epsilon and then stepped by epsilon in all, so it may reach twice the bound that the paper states; gates on other
layers than batch normalisation are ours.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sidedoor.algorithms.optim.at import gradients
from sidedoor.algorithms.pruning.gates import Gates, add_gates, pruned_by_mask
from sidedoor.algorithms.short_training import for_steps
from sidedoor.data.base import Dataset
from sidedoor.defenses.repair.base import TunedRepair
from sidedoor.engine import Objective, Run
from sidedoor.method import Count, NonNegative, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Batch

THRESHOLDS = tuple(n / 20 for n in range(1, 19))


@dataclass(frozen=True)
class ANP(TunedRepair):
    """Learn masks under adversarial noise on channels, and prune those that end low.

    Args:
        epsilon: bound of the noise that is drawn, as a share of scales and biases, and of the ascent from there.
        ascent: sign steps of the noise.
        alpha: weight of the loss without noise.
        mask_steps: of SGD on the masks, rounded up to whole epochs.
        lr: of the masks, constant.
        batch: samples a step, at most a quarter of them.
        thresholds: that are tried; channels with a mask up to one are pruned.
    """

    origins: ClassVar[dict[str, str]] = {
        "largest_drop": "ours: the release shows the curve and chooses on test data", "epsilon": "paper: 0.4",
        "ascent": "paper: one step", "alpha": "paper: 0.2", "mask_steps": "release: 2,000", "lr": "release",
        "batch": "release", "thresholds": "release: 0 to 0.9 in steps of 0.05",
    }
    quick: ClassVar[dict[str, Any]] = {"mask_steps": 4, "thresholds": (0.2, 0.9)}

    largest_drop: Share = 0.05
    epsilon: NonNegative = 0.4
    ascent: Count = 1
    alpha: Share = 0.2
    mask_steps: Count = 2000
    lr: Positive = 0.2
    batch: Count = 128
    thresholds: tuple[Share, ...] = THRESHOLDS

    def path(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Iterator[tuple[float, nn.Module]]:
        """Strengths are thresholds."""
        yield from pruned_by_mask(model, self.masks(model, clean, task, run), self.thresholds)

    def masks(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> dict[str, Tensor]:
        """What is learned: layer -> a number in [0, 1] for each channel."""
        gated = copy.deepcopy(model)
        gates = add_gates(gated)
        recipe = for_steps(run, clean, self.mask_steps, self.batch, optimizer="sgd", lr=self.lr, momentum=0.9,
                           weight_decay=0.0, schedule="constant", clip=0.0)
        run.fit(gated, clean, _Perturbed(self, gates, task), name="masks under noise", recipe=recipe)
        return gates.masks()


class _Perturbed(Objective):
    def __init__(self, method: ANP, gates: Gates, task: Task):
        super().__init__()
        self.method, self.gates, self.task = method, gates, task

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        alpha = self.method.alpha
        self.gates.clip()
        quiet = self.task.loss(model, batch).mean()
        try:
            self.gates.set_noise(self._worst_noise(model, batch))
            noisy = self.task.loss(model, batch).mean()
        finally:
            self.gates.set_noise([None] * len(self.gates.all()))
        return (alpha * quiet + (1 - alpha) * noisy)[None]

    def end_epoch(self, model: nn.Module, epoch: int) -> bool:
        self.gates.clip()
        return False

    def _worst_noise(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        epsilon = self.method.epsilon
        noise = [torch.empty_like(gate.mask).uniform_(-epsilon, epsilon) for gate in self.gates.all()]
        for _ in range(self.method.ascent):
            noise = [values.detach().requires_grad_(True) for values in noise]
            self.gates.set_noise(noise)
            slopes = gradients(self.task.loss(model, batch).mean(), noise)
            noise = [values.detach() + epsilon / self.method.ascent * slope.sign()
                     for values, slope in zip(noise, slopes, strict=True)]
        return noise
