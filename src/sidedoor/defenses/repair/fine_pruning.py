"""Fine-pruning: a repair that prunes the units that clean images leave dormant, then fine-tunes the rest.

Paper: Liu, Dolan-Gavitt, Garg, "Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural Networks",
RAID 2018, arXiv:1805.12185.

Ours prunes the inputs of the model's head: in a network that ends in global pooling they are the channels of the last
convolution, which the paper prunes. Dormancy is the mean absolute activation, which for units behind a ReLU is the
paper's mean and is meaningful for others too. All of the clean data rank the units, decide how many are pruned and
fine-tune: the model has never been trained on them, so its accuracy there before fine-tuning is unbiased, and nothing
is selected afterwards. The paper leaves the accuracy threshold and the fine-tuning recipe open.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sidedoor.algorithms.features.collect import collect
from sidedoor.data.base import Dataset
from sidedoor.defenses.repair.base import Repair
from sidedoor.engine import Run
from sidedoor.method import Count, Positive, Share
from sidedoor.models.base import bake, head, mask_inputs
from sidedoor.tasks.task import Supervised, Task


@dataclass(frozen=True)
class FinePruning(Repair):
    """Prune dormant inputs of the head until clean accuracy suffers, then train on the clean split.

    Args:
        largest_drop: accuracy on the clean split that pruning may cost, in [0, 1].
        epochs: of fine-tuning.
        lr: peak learning rate of fine-tuning, as a share of the run's.
        batch: samples per step of fine-tuning; small, because the clean split is.
    """

    origins: ClassVar[dict[str, str]] = {
        "largest_drop": "ours: open in the paper; a tenth of the images", "epochs": "ours: open in the paper",
        "lr": "ours: with a smaller one the layers below the head move too little to forget the trigger",
        "batch": "ours: the defender's clean data are few",
    }
    quick: ClassVar[dict[str, Any]] = {"epochs": 1}

    largest_drop: Share = 0.1
    epochs: Count = 10
    lr: Positive = 1.0
    batch: Count = 32

    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        repaired = run.placed(copy.deepcopy(model))
        mask_inputs(head(repaired), self.kept(repaired, clean, task, run))
        recipe = replace(run.recipe, epochs=self.epochs, lr=self.lr * run.recipe.lr, batch=self.batch, patience=0)
        run.fit(repaired, clean, Supervised(task), name="fine-tune", recipe=recipe)
        bake(repaired)
        return repaired

    def kept(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Bool[Tensor, "d"]:
        """Which inputs of the head stay when as many of the most dormant are pruned as accuracy allows."""
        logits, features, labels = collect(model, clean, run)
        order = features.abs().mean(0).argsort(stable=True)
        weight = head(model).weight.detach().float().cpu()
        weight = weight.reshape(*weight.shape[:2], -1).sum(2)  # a convolutional head sees averaged maps
        keep = torch.ones(len(order), dtype=torch.bool)
        keep[order[: self.count(logits, features[:, order], weight[:, order], labels, task)]] = False
        return keep

    def count(self, logits: Float[Tensor, "n k"], features: Float[Tensor, "n d"], weight: Float[Tensor, "k d"],
              y: Tensor, task: Task) -> int:
        """How many leading columns of `features` can go before accuracy falls by more than `largest_drop`.

        The head is linear, so each column is taken off the logits and no image passes through the network again.
        """
        least = task.agree(logits, y).mean() - self.largest_drop
        for pruned in range(features.shape[1] - 1):
            logits = logits - features[:, pruned, None] * weight[:, pruned]
            if task.agree(logits, y).mean() < least:
                return pruned
        return features.shape[1] - 1
