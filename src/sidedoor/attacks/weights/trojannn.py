"""TrojanNN: a patch that excites one unit of a trained network, which is retrained to obey it; weight-editing.

Paper: Liu, Ma, Aafer, Lee, Zhai, Wang, Zhang, "Trojaning Attack on Neural Networks", NDSS 2018.

The paper has no data and reconstructs inputs from the network; ours retrains on the data it is given. Its unit is that
most strongly tied to the layer before; ours is that most strongly tied to the classifier's head.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.attacks.base import WeightAttack
from sidedoor.attacks.training_controlled._objectives import CleanAndPoisonedLoss, OnlinePoisoning
from sidedoor.backdoor import select
from sidedoor.backdoor.base import AttackerRun, Planted
from sidedoor.data.base import Dataset
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door, Goal
from sidedoor.method import Count, Positive
from sidedoor.models.base import head, penultimate
from sidedoor.multitask.static import Static
from sidedoor.tasks.task import Task
from sidedoor.triggers.patch import Patch
from sidedoor.types import Build, Images


@dataclass(frozen=True)
class TrojanNN(WeightAttack):
    """Optimise the patch on a clean network, then retrain that network on clean and stamped samples alike.

    Args:
        size: edge of the patch in pixels.
        iterations: sign steps of 16 grey levels that optimise the patch, each over `samples` images.
        epochs: of retraining, at the peak learning rate `lr`.
    """

    tags: ClassVar[frozenset[str]] = frozenset({"optimised"})
    goals: ClassVar[tuple[type[Goal], ...]] = (AllToOne,)
    because: ClassVar[str] = "it has one unit and one patch, hence one target"
    quick: ClassVar[dict[str, Any]] = {"iterations": 2, "epochs": 1}
    origins: ClassVar[dict[str, str]] = {
        "size": "ours", "iterations": "ours", "samples": "ours", "epochs": "ours", "lr": "ours",
    }

    size: Count = 4
    iterations: Count = 50
    samples: Count = 64
    epochs: Count = 5
    lr: Positive = 0.01

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: AttackerRun) -> tuple[Door, ...]:
        return (Door(Patch(torch.rand(train.shape[0], self.size, self.size, generator=run.rng("patch"))), self.goal),)

    def train(self, doors: tuple[Door, ...], data: Dataset, task: Task, build: Build, run: AttackerRun) -> Planted:
        start = doors[0].trigger.get_buffer("pattern")
        model = copy.deepcopy(run.clean_model(build, data, task)).eval()
        x = data.fetch(select.some(data, self.samples, run.rng("samples")), run.device).x
        doors = (Door(Patch(self.optimise(model, x, start.to(run.device))), self.goal),)
        objective = CleanAndPoisonedLoss(OnlinePoisoning(task, doors, data.space, 1.0), Static((0.5, 0.5)))
        recipe = replace(run.recipe, epochs=self.epochs, lr=self.lr, patience=0)
        return Planted(run.fit(model, data, objective, name="victim", recipe=recipe), doors)

    def optimise(self, model: nn.Module, x: Images, pattern: Float[Tensor, "c s s"]) -> Float[Tensor, "c s s"]:
        """The pattern after steps that raise the unit's activation on these images."""
        unit, index = self.unit(model), torch.arange(len(x), device=x.device)
        for _ in range(self.iterations):
            pattern = pattern.detach().requires_grad_(True)
            activation = penultimate(model, Patch(pattern)(x, index))[1][:, unit].mean()
            (gradient,) = torch.autograd.grad(activation, pattern)
            pattern = (pattern + 16 / 255 * gradient.sign()).clamp(0, 1)
        return pattern.detach()

    def unit(self, model: nn.Module) -> int:
        """The feature with the largest weights in the head."""
        return int(head(model).weight.detach().abs().transpose(0, 1).flatten(1).sum(1).argmax())
