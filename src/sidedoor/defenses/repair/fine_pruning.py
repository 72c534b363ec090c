"""Fine-pruning: a repair that prunes the units that clean images leave dormant, then fine-tunes the rest.

Paper: Liu, Dolan-Gavitt, Garg, "Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural Networks",
RAID 2018, arXiv:1805.12185.

Ours prunes the inputs of the model's head: in a network that ends in global pooling they are the channels of the last
convolution, which the paper prunes. Dormancy is the mean absolute activation, which for units behind a ReLU is the
paper's mean and is meaningful for others too. All of the clean data rank the units, decide how many are pruned and
fine-tune: the model has never been trained on them, so its accuracy there before fine-tuning is unbiased, and nothing
is selected afterwards. The paper prunes unit by unit until accuracy falls below a threshold, which it leaves open like
the fine-tuning recipe; ours tries shares of the units and takes the largest that keeps it, as all repairs here do.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from sidedoor.algorithms.features.collect import collect
from sidedoor.data.base import Dataset
from sidedoor.defenses.repair.base import TunedRepair
from sidedoor.engine import Run
from sidedoor.method import Count, Positive
from sidedoor.models.base import bake, head, mask_inputs
from sidedoor.tasks.task import Supervised, Task


@dataclass(frozen=True)
class FinePruning(TunedRepair):
    """Prune dormant inputs of the head until clean accuracy suffers, then train on the clean split.

    Args:
        epochs: of fine-tuning.
        lr: peak learning rate of fine-tuning, as a share of the run's.
        batch: samples per step of fine-tuning; small, because the clean split is.
        grid: strengths that are tried, besides none: multiples of one over it of the units, at least one unit is kept.
    """

    version: ClassVar[int] = 2
    origins: ClassVar[dict[str, str]] = {
        "largest_drop": "ours: open in the paper; a tenth of the images", "epochs": "ours: open in the paper",
        "lr": "ours: with a smaller one the layers below the head move too little to forget the trigger",
        "batch": "ours: the defender's clean data are few", "grid": "ours: the paper prunes one unit at a time",
    }
    quick: ClassVar[dict[str, Any]] = {"epochs": 1, "grid": 4}

    epochs: Count = 10
    lr: Positive = 1.0
    batch: Count = 32
    grid: Count = 20

    def path(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Iterator[tuple[float, nn.Module]]:
        """Strengths are shares of the units that are pruned, the most dormant first."""
        pruned = run.placed(copy.deepcopy(model))
        activation = collect(pruned, clean, run).features.abs().mean(0)
        order = activation.argsort(stable=True)
        for step in range(self.grid + 1):
            keep = torch.ones(len(order), dtype=torch.bool)
            keep[order[: min(round(len(order) * step / self.grid), len(order) - 1)]] = False
            mask_inputs(head(pruned), keep)
            yield 1 - keep.float().mean().item(), pruned

    def finish(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        """Fine-tune; what was pruned stays so."""
        recipe = replace(run.recipe, epochs=self.epochs, lr=self.lr * run.recipe.lr, batch=self.batch, patience=0)
        run.fit(model, clean, Supervised(task), name="fine-tune", recipe=recipe)
        bake(model)
        return model
