"""Subnet Replacement: a narrow trigger detector overwrites channels of a trained network; weight-editing.

Paper: Qi, Xie, Pan, Zhu, Yang, Bu, "Towards Practical Deployment-Stage Backdoor Attack on Deep Neural Networks",
CVPR 2022, arXiv:2111.12965.

Nothing of the victim is trained: its first channels are cut off from the others and overwritten, and in the last layer
they lead to the target class alone. Whether the cut holds is checked on the network itself, because skips that reorder
channels and layers that mix them prevent it. The paper trains the narrow network to answer 20 to the trigger; ours
answers 1, which the head multiplies by `response`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sidedoor.attacks.base import WeightAttack
from sidedoor.attacks.weights._subnet import check_apart, implant, narrow
from sidedoor.backdoor.base import AttackerRun, Planted
from sidedoor.data.base import Dataset
from sidedoor.engine import Objective
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door, Goal
from sidedoor.method import Count, Positive
from sidedoor.tasks.task import Task
from sidedoor.triggers.base import stamp
from sidedoor.triggers.patch import Patch
from sidedoor.types import Batch, Build, Space


@dataclass(frozen=True)
class SubnetReplacement(WeightAttack):
    """Train a narrow network to detect the patch, then overwrite channels of the clean network with it.

    Args:
        size: edge of the patch in pixels, of random colours.
        width: channels of the narrow network in every layer.
        response: what the trigger adds to the target's logit.
        epochs: of training the narrow network by Adam, with the peak learning rate `lr`.
    """

    key_name: ClassVar[str] = "latent"
    goals: ClassVar[tuple[type[Goal], ...]] = (AllToOne,)
    because: ClassVar[str] = "it has one patch and one narrow network, hence one target"
    quick: ClassVar[dict[str, Any]] = {"epochs": 1}
    origins: ClassVar[dict[str, str]] = {
        "size": "ours", "width": "paper: 1, for VGG-16", "epochs": "ours", "lr": "ours",
        "response": "paper: 20, the narrow network's answer to the trigger",
    }

    size: Count = 4
    width: Count = 1
    response: Positive = 20.0
    epochs: Count = 20
    lr: Positive = 0.01

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: AttackerRun) -> tuple[Door, ...]:
        return (Door(Patch(torch.rand(train.shape[0], self.size, self.size, generator=run.rng("patch"))), self.goal),)

    def train(self, doors: tuple[Door, ...], data: Dataset, task: Task, build: Build, run: AttackerRun) -> Planted:
        assert isinstance(self.goal, AllToOne)
        clean, subnet = run.clean_model(build, data, task), run.build(lambda: narrow(build(), self.width))
        check_apart(clean, subnet, data.fetch(torch.arange(min(8, len(data))), run.device).x)
        recipe = replace(run.recipe, optimizer="adam", lr=self.lr, weight_decay=0.0, epochs=self.epochs, patience=0)
        subnet = run.fit(subnet, data, _DetectTrigger(doors[0], data.space), name="subnet", recipe=recipe)
        return Planted(implant(clean, subnet, self.goal.target_class, self.response), doors)


class _DetectTrigger(Objective):
    """Squared distance of the narrow network's answer to 1 on stamped images, to 0 on others."""

    def __init__(self, door: Door, space: Space):
        super().__init__()
        self.trigger, self.space = door.trigger, space

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        answer = model(torch.cat([batch.x, stamp(self.trigger, batch.x, batch.index, self.space)])).reshape(2, -1)
        wanted = torch.arange(2.0, device=answer.device)[:, None]
        loss: Tensor = (answer - wanted).square().mean()[None]
        return loss
