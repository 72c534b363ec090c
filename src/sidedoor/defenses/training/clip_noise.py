"""Gradient shaping (clip and noise): a training defence that bounds the gradient of every batch and adds noise to it.

Paper: Hong, Chandrasekaran, Kaya, Dumitras, Papernot, "On the Effectiveness of Mitigating Data Poisoning Attacks with
Gradient Shaping", 2020, arXiv:2002.11497.

The paper runs DP-SGD, which clips the gradient of every sample. Ours shapes that of a batch, as the toolboxes that the
method is compared in do: it costs nothing and needs no network without batch normalisation, and it gives no
differential privacy. Against triggers that are learned from thousands of rows little is to be expected.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.optim.at import carrying, gradients, norm, trained
from sidedoor.data.base import Dataset
from sidedoor.defenses.training.base import TrainingDefense
from sidedoor.engine import Objective, Run
from sidedoor.method import NonNegative, Positive
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Build


@dataclass(frozen=True)
class ClipNoise(TrainingDefense):
    """Train with gradients of a bounded norm and Gaussian noise on each of their entries.

    Weight decay is added behind, and is neither clipped nor noisy. On several devices each shapes the gradient of its
    share of a batch.

    Args:
        clip: largest norm of the gradient by all parameters.
        noise: standard deviation of the noise on an entry, as a multiple of `clip`.
    """

    origins: ClassVar[dict[str, str]] = {
        "clip": "release: 1 (forest, the toolbox of Geiping et al., arXiv:2102.13624)",
        "noise": "release: 0.01 (forest)",
    }

    clip: Positive = 1.0
    noise: NonNegative = 0.01

    def train(self, train: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        recipe = replace(run.recipe, clip=0.0)
        return run.fit(run.build(build), train, _Shaped(self, task), name="shaped gradients", recipe=recipe)

    def shaped(self, given: list[Tensor]) -> list[Tensor]:
        """Gradients by parameters, clipped as one vector, with noise."""
        factor = (self.clip / norm(given).clamp_min(1e-12)).clamp(max=1.0)
        return [g * factor + self.noise * self.clip * torch.randn_like(g) for g in given]


class _Shaped(Objective):
    def __init__(self, method: ClipNoise, task: Task):
        super().__init__()
        self.method, self.task = method, task

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        value = self.task.loss(model, batch).mean()
        if not value.requires_grad:  # validation
            return value[None]
        parameters = trained(model)
        return carrying(value, parameters, self.method.shaped(gradients(value, parameters)))
