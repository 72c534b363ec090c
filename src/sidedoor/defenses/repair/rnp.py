"""RNP: reconstructive neuron pruning, a repair that cuts off channels which recovering the task does not need.

Paper: Li, Lyu, Ma, Koren, Lyu, Li, Jiang, "Reconstructive Neuron Pruning for Backdoor Defense", ICML 2023,
arXiv:2305.14876.

The model unlearns the clean samples, which leaves the backdoor where it is; masks on the channels of what remains are
then trained to bring the task back, and lose those of the backdoor. Channels with a mask up to a threshold are pruned
from the model as it was given; biases stay.

Published figures take the threshold by test data; ours takes the largest that keeps accuracy on the clean samples. The
release clips gradients before they are there, hence not at all, and so do we; its second loss is 0.2 times the
cross-entropy, which only rescales the learning rate. It unlearns until a fifth of the samples of ten classes are right;
ours until max(2 / K, 1 / K + 0.05) of K classes'.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from sidedoor.algorithms.pruning.gates import Gates, add_gates, gated_layers, pruned_by_mask
from sidedoor.algorithms.short_training import for_steps
from sidedoor.algorithms.unlearned import unlearned
from sidedoor.data.base import Dataset
from sidedoor.defenses.repair.base import TunedRepair
from sidedoor.engine import Objective, Run
from sidedoor.method import Count, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Batch


@dataclass(frozen=True)
class RNP(TunedRepair):
    """Unlearn the task, learn masks that bring it back, and prune the channels whose masks end low.

    Args:
        unlearning_steps: of gradient ascent, at most, rounded up to whole epochs.
        unlearning_lr: its learning rate, ×0.1 after a half and after three quarters.
        mask_steps: of SGD on the masks, rounded up to whole epochs.
        lr: of the masks, constant.
        batch: samples a step, at most a quarter of them.
        thresholds: that are tried; channels with a mask up to one are pruned.
    """

    origins: ClassVar[dict[str, str]] = {
        "largest_drop": "ours: open in the paper", "unlearning_steps": "release: 21 epochs of 500 images",
        "unlearning_lr": "release", "mask_steps": "release: 20 epochs of 500 images", "batch": "release",
        "lr": "release: 0.2, of a loss that is multiplied by 0.2", "thresholds": "release: steps of 0.05",
    }
    quick: ClassVar[dict[str, Any]] = {"unlearning_steps": 4, "mask_steps": 4, "thresholds": (0.2, 0.9)}

    largest_drop: Share = 0.05
    unlearning_steps: Count = 84
    unlearning_lr: Positive = 0.01
    mask_steps: Count = 80
    lr: Positive = 0.04
    batch: Count = 128
    thresholds: tuple[Share, ...] = tuple(n / 20 for n in range(1, 19))

    def path(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Iterator[tuple[float, nn.Module]]:
        """Strengths are thresholds."""
        gated_layers(model)  # which fails where there are none, before anything is trained
        yield from pruned_by_mask(model, self.masks(model, clean, task, run), self.thresholds)

    def masks(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> dict[str, Tensor]:
        """What is learned: layer -> a number in [0, 1] for each channel."""
        recipe = for_steps(run, clean, self.unlearning_steps, self.batch, optimizer="sgd", lr=self.unlearning_lr,
                           momentum=0.9, weight_decay=5e-4, schedule="step", clip=0.0)
        until = max(2 / task.classes, 1 / task.classes + 0.05)
        gated = unlearned(model, clean, run, recipe, until, "unlearn")
        gates = add_gates(gated)
        recipe = for_steps(run, clean, self.mask_steps, self.batch, optimizer="sgd", lr=self.lr, momentum=0.9,
                           weight_decay=0.0, schedule="constant", clip=0.0)
        run.fit(gated, clean, _Recovery(gates, task), name="masks that recover", recipe=recipe)
        return gates.masks()


class _Recovery(Objective):
    def __init__(self, gates: Gates, task: Task):
        super().__init__()
        self.gates, self.task = gates, task

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        self.gates.clip()
        return self.task.loss(model, batch).mean()[None]

    def end_epoch(self, model: nn.Module, epoch: int) -> bool:
        self.gates.clip()
        return False
