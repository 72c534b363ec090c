"""Mode connectivity repair (MCR): a repair that delivers a model between the given one and its fine-tuned copy.

Paper: Zhao, Chen, Das, Ramamurthy, Lin, "Bridging Mode Connectivity in Loss Landscapes and Adversarial Robustness",
ICLR 2020, arXiv:2005.00060.

A quadratic Bezier curve of weights, (1-t)²w₀ + 2t(1-t)w₁ + t²w₂, leads from the given model w₀ to its fine-tuned copy
w₂. Its bend w₁ begins in their middle and is trained on clean samples at t drawn uniformly; the model at one t is
delivered, its statistics of batch normalisation measured anew. The paper connects two backdoored models where it has
them, and chooses t between 0.1 and 0.4; a widely used port takes 0.1, which is close to the victim, and trains the bend
with a learning rate of 3e-5, which hardly moves it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sidedoor.algorithms.short_training import for_steps
from sidedoor.data.base import Dataset
from sidedoor.defenses.repair.base import Repair
from sidedoor.engine import Objective, Run
from sidedoor.method import Count, Positive, Share
from sidedoor.tasks.task import Supervised, Task
from sidedoor.types import Batch, Images

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class MCR(Repair):
    """Fine-tune a copy, train a curve of low loss between the two, and deliver a model from it.

    Args:
        place: t of the delivered model, 0 for the given one and 1 for its fine-tuned copy.
        end_steps: of fine-tuning the copy.
        steps: of training the bend.
        batch: samples a step, at most.
        lr: peak learning rate of SGD, with a cosine schedule and no weight decay.
    """

    origins: ClassVar[dict[str, str]] = {
        "place": "paper: the largest of its places", "end_steps": "ours: 20 epochs over 2,500 images",
        "steps": "ours: 100 epochs over 2,500 images", "batch": "ours: open in the paper",
        "lr": "ours: the port's 3e-5 leaves the bend where it begins",
    }
    quick: ClassVar[dict[str, Any]] = {"end_steps": 4, "steps": 4}

    place: Share = 0.4
    end_steps: Count = 200
    steps: Count = 1000
    batch: Count = 64
    lr: Positive = 0.02

    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        end = self._trained(copy.deepcopy(model), clean, Supervised(task), run, "end", self.end_steps)
        first, last = _weights(run.placed(copy.deepcopy(model))), _weights(end)
        bend = copy.deepcopy(end)
        _set(bend, {name: (first[name] + last[name]) / 2 for name in first})
        bend = self._trained(bend, clean, _Curve(task, first, last), run, "bend", self.steps)
        _set(bend, between(first, _weights(bend), last, self.place))
        _measure_statistics(bend, clean, run)
        return bend.eval()

    def _trained(self, model: nn.Module, clean: Dataset, objective: Objective, run: Run, name: str, steps: int) \
            -> nn.Module:
        recipe = for_steps(run, clean, steps, self.batch, optimizer="sgd", lr=self.lr, momentum=0.9, weight_decay=0.0,
                           schedule="cosine")
        return run.fit(model.requires_grad_(True), clean, objective, name=name, recipe=recipe)


def between(first: Weights, bend: Weights, last: Weights, t: float) -> Weights:
    """(1-t)² first + 2t(1-t) bend + t² last."""
    return {name: (1 - t) ** 2 * first[name] + 2 * t * (1 - t) * bend[name] + t**2 * last[name] for name in first}


class _Curve(Objective):
    """The task's loss of the model at a random place of the curve; what is trained is the bend."""

    def __init__(self, task: Task, first: Weights, last: Weights):
        super().__init__()
        self.task, self.first, self.last = task, first, last

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        weights = between(self.first, dict(model.named_parameters()), self.last, torch.rand(()).item())
        return self.task.loss(_Called([model], weights), batch).mean()[None]


class _Called(nn.Module):
    """A model with other parameters, its buffers its own."""

    def __init__(self, model: list[nn.Module], weights: Weights):
        super().__init__()
        self.model, self.weights = model, weights

    def forward(self, x: Images) -> Tensor:
        output: Tensor = functional_call(self.model[0], self.weights, (x,))
        return output


def _weights(model: nn.Module) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@torch.no_grad()
def _set(model: nn.Module, weights: Weights) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])


@torch.no_grad()
def _measure_statistics(model: nn.Module, clean: Dataset, run: Run) -> None:
    """Give batch normalisation the mean of its statistics over batches of the clean samples, in place."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative mean
        layer.train()
    order = torch.randperm(len(clean), generator=run.rng("statistics"))
    for index in torch.split(order, max(2, min(128, len(clean) // 2))):
        if len(index) > 1:
            model(clean.fetch(index, run.device).x)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
