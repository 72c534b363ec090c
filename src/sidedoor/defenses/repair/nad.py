"""Neural attention distillation (NAD): a repair whose student learns where a fine-tuned teacher looks.

Paper: Li, Lyu, Koren, Lyu, Li, Ma, "Neural Attention Distillation: Erasing Backdoor Triggers from Deep Neural
Networks", ICLR 2021, arXiv:2101.05930.

The teacher is the model after plain fine-tuning, the student the model itself. Where a layer looks is the sum over its
channels of |F|^p at each place, divided by its norm; the student minimises cross-entropy plus, for three layers, β
times the mean squared difference from the teacher. The layers are the last of each size of maps, of at most three
sizes, so that every one has more than one place: behind global pooling attention is 1 whatever the features are, which
leaves a widely used port with plain fine-tuning for many architectures. The release's momentum is Nesterov's, ours is
not.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.features.cut import recorded, stages
from sidedoor.algorithms.short_training import for_steps
from sidedoor.data.base import Dataset
from sidedoor.defenses.repair.base import Repair
from sidedoor.engine import Objective, Run
from sidedoor.errors import NotApplicable
from sidedoor.method import Count, NonNegative, Positive
from sidedoor.models.base import Shape
from sidedoor.tasks.task import Supervised, Task
from sidedoor.types import Batch

TINY = 1e-6


@dataclass(frozen=True)
class NAD(Repair):
    """Fine-tune a copy as the teacher, then the model itself towards the teacher's attention.

    Args:
        teacher_steps: of fine-tuning the teacher.
        first_steps: of the student at the learning rate of the teacher.
        steps: of the student after that, at a tenth of it.
        batch: samples a step, at most.
        lr: learning rate of SGD.
        weight_decay: of SGD.
        beta: weights of the difference in attention, from the first of the layers to the last; of fewer layers the last
            weights count.
        power: p of the attention.

    Raises:
        NotApplicable: the model has maps of fewer than two sizes, as transformers do.
    """

    origins: ClassVar[dict[str, str]] = {
        "teacher_steps": "paper: 10 epochs over 2,500 images", "first_steps": "release: 2 epochs",
        "steps": "release: 18 epochs", "batch": "release",
        "lr": "ours: the release's 0.1 costs a small network without skip connections 15 points of accuracy",
        "weight_decay": "release", "beta": "release: of WRN-16-1", "power": "paper",
    }
    quick: ClassVar[dict[str, Any]] = {"teacher_steps": 4, "first_steps": 4, "steps": 4}

    teacher_steps: Count = 390
    first_steps: Count = 78
    steps: Count = 702
    batch: Count = 64
    lr: Positive = 0.02
    weight_decay: NonNegative = 1e-4
    beta: tuple[NonNegative, NonNegative, NonNegative] = (500.0, 1000.0, 1000.0)
    power: Positive = 2.0

    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        names = layers(run.frozen(model), clean.shape)
        teacher = self._tuned(model, clean, Supervised(task), run, "teacher", self.teacher_steps, self.lr)
        objective = Distilled(task, run.frozen(teacher), names, self.beta[-len(names):], self.power)
        student = self._tuned(model, clean, objective, run, "student", self.first_steps, self.lr)
        return self._tuned(student, clean, objective, run, "student later", self.steps, self.lr / 10)

    def _tuned(self, model: nn.Module, clean: Dataset, objective: Objective, run: Run, name: str, steps: int,
               lr: float) -> nn.Module:
        recipe = for_steps(run, clean, steps, self.batch, optimizer="sgd", lr=lr, momentum=0.9,
                           weight_decay=self.weight_decay, schedule="constant")
        return run.fit(copy.deepcopy(model).requires_grad_(True), clean, objective, name=name, recipe=recipe)


class Distilled(Objective):
    """Cross-entropy plus the weighted difference of attention from a teacher's, in the named layers."""

    def __init__(self, task: Task, teacher: nn.Module, names: Sequence[str], beta: Sequence[float], power: float):
        super().__init__()
        self.task, self.names, self.beta, self.power = task, list(names), list(beta), power
        self.teacher = [teacher]  # no module of the objective, whose state is kept with every checkpoint

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        with recorded(model, self.names) as own:
            loss = self.task.loss(model, batch).mean()
        with torch.no_grad(), recorded(self.teacher[0], self.names) as theirs:
            self.teacher[0](batch.x)
        for name, beta in zip(self.names, self.beta, strict=True):
            apart = attention(own[name], self.power) - attention(theirs[name], self.power)
            loss = loss + beta * apart.square().mean()
        return loss[None]


def layers(model: nn.Module, shape: Shape) -> list[str]:
    """The last stage of each size of maps, of the last three sizes, in the order of their calls.

    Args:
        model: in evaluation mode.
        shape: of one image.

    Raises:
        NotApplicable: there are fewer than two sizes.
    """
    names = stages(model, shape)
    like = next(model.parameters())
    with torch.no_grad(), recorded(model, names) as seen:
        model(torch.zeros(2, *shape, device=like.device))
    last = {tuple(seen[name].shape[2:]): name for name in names}
    if len(last) < 2:
        raise NotApplicable(f"{type(model).__name__} has maps of one size only; attention is distilled from maps of "
                            "two sizes or more, as convolutional networks have")
    return sorted(last.values(), key=names.index)[-3:]


def attention(maps: Float[Tensor, "b c h w"], power: float) -> Float[Tensor, "b hw"]:
    """Where maps are strong: Σ_c |F_c|^p at each place, divided by its Euclidean norm.

    Raises:
        NotApplicable: there is a single place, where it would be 1 whatever the maps are.
    """
    if maps.shape[2:].numel() < 2:
        raise NotApplicable(f"maps of shape {tuple(maps.shape[1:])} given; attention needs more than one place")
    strength = maps.abs().pow(power).sum(1).flatten(1)
    normalised: Tensor = strength / (strength.norm(dim=1, keepdim=True) + TINY)
    return normalised
