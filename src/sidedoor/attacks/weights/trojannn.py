"""A patch made to excite one unit of a trained network, which is then retrained to obey it.

Paper: Liu, Ma, Aafer, Lee, Zhai, Wang, Zhang, "Trojaning Attack on Neural Networks", NDSS 2018.

The paper has no data and reconstructs inputs from the network; ours retrains on the data it is given. Its unit is that
most strongly tied to the layer before; ours is that most strongly tied to the classifier's head.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from sidedoor.attacks.base import Attack
from sidedoor.attacks.training_controlled._objectives import CleanAndPoisonedLoss, OnlinePoisoning
from sidedoor.backdoor import select
from sidedoor.backdoor.base import Access, AttackerRun, Backdoor, Planted
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
class TrojanNN(Attack):
    """Draw the patch on a clean network, then retrain that network on clean and on stamped samples alike.

    Args:
        size: edge of the patch in pixels.
        iterations: sign steps of 16 grey levels that draw the patch, each over `samples` images.
        epochs: of retraining, at the peak learning rate `lr`.
    """

    access: ClassVar[Access] = Access.WEIGHTS
    goals: ClassVar[tuple[type[Goal], ...]] = (AllToOne,)
    because: ClassVar[str] = "it has one unit and one patch, hence one target"
    size: Count = 4
    iterations: Count = 50
    samples: Count = 64
    epochs: Count = 5
    lr: Positive = 0.01

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: AttackerRun) -> Backdoor:
        blank = torch.rand(train.shape[0], self.size, self.size, generator=run.rng("patch"))
        return Backdoor((Door(Patch(blank), self.goal),), train=functools.partial(self._train, blank))

    def _train(self, blank: Tensor, data: Dataset, task: Task, build: Build, run: AttackerRun) -> Planted:
        model = copy.deepcopy(run.clean_model(build, data, task)).eval()
        x = data.fetch(select.some(data, self.samples, run.rng("samples")), run.device).x
        doors = (Door(Patch(self.drawn(model, x, blank.to(run.device))), self.goal),)
        objective = CleanAndPoisonedLoss(OnlinePoisoning(task, doors, data.space, 1.0), Static((0.5, 0.5)))
        recipe = replace(run.recipe, epochs=self.epochs, lr=self.lr, patience=0)
        return Planted(run.fit(model, data, objective, name="victim", recipe=recipe), doors)

    def drawn(self, model: nn.Module, x: Images, pattern: Tensor) -> Tensor:
        """A patch that excites the unit on these images, from one to start with."""
        unit, index = self.unit(model), torch.arange(len(x), device=x.device)
        for _ in range(self.iterations):
            pattern = pattern.detach().requires_grad_(True)
            excitement = penultimate(model, Patch(pattern)(x, index))[1][:, unit].mean()
            (gradient,) = torch.autograd.grad(excitement, pattern)
            pattern = (pattern + 16 / 255 * gradient.sign()).clamp(0, 1)
        return pattern.detach()

    def unit(self, model: nn.Module) -> int:
        """The feature with the largest weights in the head."""
        return int(head(model).weight.detach().abs().transpose(0, 1).flatten(1).sum(1).argmax())
