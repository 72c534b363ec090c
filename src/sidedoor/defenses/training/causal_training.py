"""Causality-inspired backdoor defence (CBD): a training defence that trains against a network biased to the backdoor.

Paper: Zhang, Liu, Wang, Lu, Hu, "Backdoor Defense via Deconfounded Representation Learning", CVPR 2023,
arXiv:2303.06818.

A first network, trained for a few epochs, has learned the backdoor and little else. A second one is then trained from
scratch with weights w = CE_first / (CE_first + CE_second) on the samples, so that what the first knows hardly counts.
The paper adds an estimate of the mutual information of both networks' features, which the released code has switched
off, and an information bottleneck, which it does not have; ours is the reweighting alone.

Everything hangs on the premise that poison is learned long before the task. Where it is not, as with a small patch on
easy images, poisoned rows get *larger* weights than clean ones; and what the first network knows of the task, the
second never learns. On the digits, small and easy, one or the other happens: two epochs of the first leave the
backdoor as it is, and after five half of the accuracy goes with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.data.base import Dataset
from sidedoor.defenses.training.base import TrainingDefense
from sidedoor.engine import Objective, Run
from sidedoor.errors import ConfigError
from sidedoor.method import Count, Positive
from sidedoor.tasks.task import Supervised, Task
from sidedoor.types import Batch, Build

TINY = 1e-8


@dataclass(frozen=True)
class CausalTraining(TrainingDefense):
    """Train a network on a few epochs, and deliver a second one, trained on what the first has not learned.

    Args:
        biased_epochs: of the first network.
        biased_lr: its constant learning rate.

    Raises:
        ConfigError: a task without a loss of each sample.
    """

    origins: ClassVar[dict[str, str]] = {
        "biased_epochs": "release: 5",
        "biased_lr": "release: its schedule is applied to the other network's optimiser",
    }
    quick: ClassVar[dict[str, Any]] = {"biased_epochs": 1}

    biased_epochs: Count = 5
    biased_lr: Positive = 0.1

    def train(self, train: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        if not task.per_sample:
            raise ConfigError(f"CBD weighs rows by their loss, but {type(task).__name__} has a loss of batches only")
        brief = replace(run.recipe, epochs=self.biased_epochs, lr=self.biased_lr, optimizer="sgd",
                        schedule="constant", patience=0)
        biased = run.fit(run.within("biased").build(build), train, Supervised(task), name="biased", recipe=brief)
        objective = Reweighted(task, run.frozen(biased))
        return run.fit(run.build(build), train, objective, name="reweighted")


class Reweighted(Objective):
    """The task's loss, weighted by what a biased network makes of each sample."""

    def __init__(self, task: Task, biased: nn.Module):
        super().__init__()
        self.task = task
        # In a tuple, since it is no part of this phase's state: the phase before has kept it.
        self.biased = (biased,)

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        loss = self.task.loss(model, batch)
        weights = causal_weights(self.task.loss(self.biased[0], batch).detach(), loss.detach())
        return (weights * loss).mean()[None]


def causal_weights(biased: Float[Tensor, "b"], own: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """Small where the biased network's loss is small beside the own one; of mean 1."""
    weights = biased / (biased + own + TINY)
    return weights / (weights.mean() + TINY)
