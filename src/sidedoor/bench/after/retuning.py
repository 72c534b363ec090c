"""Re-tuning: how much of a backdoor a few poisoned images bring back in a few steps, beside what they teach.

Paper: Min, Qin, Zhang, Shen, Cheng, "Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor
Defense", NeurIPS 2024, arXiv:2410.09838. A purified model that needs fewer poisoned images than one that was never
attacked has not forgotten. So the clean sibling gets the same rows in the same steps: what it learns is learned anew,
and only the difference is remembered.

The attacker fine-tunes at a tenth of the victim's learning rate on images of the training set, of which 1, 5 or 20 are
stamped and relabelled and nine times as many are not, for `STEPS` steps. Batch normalisation keeps its statistics: ten
images have none of their own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from sidedoor.algorithms.optim.batch_norm import frozen_statistics
from sidedoor.bench.after.base import eligible_rows
from sidedoor.bench.case import Case
from sidedoor.bench.record import Means
from sidedoor.data.base import ArrayDataset, Dataset
from sidedoor.evaluation import evaluate
from sidedoor.goals.base import Door
from sidedoor.tasks.task import Supervised
from sidedoor.triggers.base import stamp_levels
from sidedoor.types import Batch

IMAGES = (1, 5, 20)
CLEAN = 9
"""Clean images beside each poisoned one."""
STEPS = 20
BATCH = 64
SLOWER = 0.1
"""Of the victim's learning rate."""


class _Frozen(Supervised):
    """The task's loss, behind the running statistics."""

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        with frozen_statistics(model):
            return super().losses(model, batch)


def measure(case: Case, doors: Sequence[Door], finished: nn.Module, clean: nn.Module | None) -> Means:
    """Attack success after re-tuning on so many poisoned images: `retuned_5` of the delivered model, `relearned_5` of
    the clean sibling.
    """
    return {} if clean is None else reached(case, doors, {"retuned": finished, "relearned": clean})


def reached(case: Case, doors: Sequence[Door], models: Mapping[str, nn.Module]) -> Means:
    """Attack success of each model after re-tuning, by the model's name and the number of poisoned images."""
    door = next((door for door in doors if door.scored), None)
    if door is None:
        return {}
    columns: Means = {}
    for count in IMAGES:
        poisoned = _few(case, door, count)
        for name, model in models.items():
            tuned = _tuned(case, model, poisoned, f"{name} on {count}")
            columns[f"{name}_{count}"] = evaluate(tuned, case.test, case.task, doors, case.run).means()["attack"]
    return columns


def _few(case: Case, door: Door, count: int) -> Dataset:
    """Poisoned images, as the door stamps them at test time, and clean ones."""
    stamped = case.train.fetch(eligible_rows(case.train, case, door, count, "stamped"))
    others = torch.randperm(len(case.train), generator=case.run.rng("after/clean"))[: CLEAN * count]
    with torch.no_grad():
        levels = stamp_levels(door.trigger.cpu(), stamped.x, stamped.index, case.train.space)
    labels = door.goal.target(case.task, stamped.y, stamped.index)
    return ArrayDataset(torch.cat([levels.to(torch.uint8), case.train.rows(others)]),
                        torch.cat([labels, case.train.targets[others]]), case.train.classes, "few poisoned images")


def _tuned(case: Case, model: nn.Module, data: Dataset, name: str) -> nn.Module:
    batch = min(BATCH, len(data))
    epochs = math.ceil(STEPS / math.ceil(len(data) / batch))
    recipe = replace(case.run.recipe, lr=SLOWER * case.run.recipe.lr, epochs=epochs, batch=batch, patience=0)
    run = replace(case.run, augment=None, history={}, checkpoints=None)
    return run.fit(copy.deepcopy(model).requires_grad_(True), data, _Frozen(case.task), name=f"after/{name}",
                   recipe=recipe)
