"""Poison immunity (gradient matching): a training defence against poison whose gradient it crafts in every batch.

Paper: Geiping, Fowl, Somepalli, Goldblum, Moeller, Goldstein, "What Doesn't Kill You Makes You Robust(er): How to
Adversarially Train against Data Poisoning", 2021, arXiv:2102.13624.

In every batch most rows play poison and the rest its targets: the poison is perturbed so that its gradient, with true
labels, is the one that would teach the network the poison's most frequent class for the targets. Trained on with true
labels, it teaches the network not to follow such poison. Perturbations are found by sign steps; the released code feeds
signs to Adam.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.adversarial.pgd import Steps, ascended
from sidedoor.algorithms.optim.at import norm, trained
from sidedoor.data.base import Dataset
from sidedoor.defenses.training._poison_immunity import Crafted, Immunity
from sidedoor.defenses.training.base import TrainingDefense
from sidedoor.engine import Run
from sidedoor.method import Count, NonNegative, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Build, Images


@dataclass(frozen=True)
class PoisonImmunityMatching(TrainingDefense):
    """Train on batches in which most rows are crafted to teach a wrong class for the others.

    Args:
        share: of a batch that plays poison, in [0, 1].
        epsilon: bound of the perturbation, in 8-bit levels; 0 is plain training.
        iterations: steps for each batch; a training step takes about 1 + 3 `iterations` times as long as a plain one.
        step: of the perturbation, in 8-bit levels.
    """

    origins: ClassVar[dict[str, str]] = {
        "share": "paper: 0.75", "epsilon": "release: 16", "iterations": "release: 5",
        "step": "release: 0.1 in normalised units, a deviation of a quarter of the range here",
    }
    quick: ClassVar[dict[str, Any]] = {"iterations": 1}

    share: Share = 0.75
    epsilon: NonNegative = 16.0
    iterations: Count = 5
    step: Positive = 6.4

    def train(self, train: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        def crafted(model: nn.Module, poison: Batch, targets: Batch) -> Crafted:
            return self.matched(task, model, poison, targets), targets.x

        return run.fit(run.build(build), train, Immunity(task, self.share, crafted), name="immunity")

    def matched(self, task: Task, model: nn.Module, poison: Batch, targets: Batch) -> Images:
        """The poison, perturbed from a random start so that its gradient comes near the wanted one."""
        parameters = trained(model)
        fake = torch.full_like(targets.y, int(poison.y.mode().values))
        wanted = _gradient(task, model, targets._replace(y=fake), parameters, create_graph=False)
        bound = self.epsilon / 255
        start = poison.x + (bound * torch.randn_like(poison.x)).clamp(-bound, bound)

        def near(x: Images) -> Tensor:
            own = _gradient(task, model, poison._replace(x=x), parameters, create_graph=True)
            return -mismatch(wanted, own)

        return ascended(near, poison.x, Steps(bound, self.step / 255, self.iterations), start)


def mismatch(wanted: list[Tensor], own: list[Tensor]) -> Float[Tensor, ""]:
    """Half the squared distance of gradients, over the norm of the wanted one."""
    distance = torch.stack([(w - g).square().sum() for w, g in zip(wanted, own, strict=True)]).sum()
    return distance / (2 * norm(wanted) + 1e-12)


def _gradient(task: Task, model: nn.Module, batch: Batch, parameters: list[nn.Parameter], *, create_graph: bool) \
        -> list[Tensor]:
    return list(torch.autograd.grad(task.loss(model, batch).mean(), parameters, create_graph=create_graph))
