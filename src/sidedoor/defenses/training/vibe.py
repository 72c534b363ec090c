"""VIBE: a training defence that takes given labels for noisy answers of clean ones, which it infers by clustering.

Paper: Sabolić, Grcić, Šegvić, "Seal Your Backdoor with Variational Defense", ICCV 2025, arXiv:2503.08829.

Features v of unit length, learned without labels, meet prototypes of clean classes in ln p(l|x) = κ v·μ_l + ln π_l,
and those meet prototypes of labels in ln p(y|l) = ν η_y·μ_l, both up to a constant. The E-step gives every row a clean
class, the M-step fits the prototypes and the prior π to them. Ours is the variant with a frozen backbone, where
features come from SimCLR in place of All4One, and prototypes are the same for all images. The release runs Sinkhorn's
algorithm for all 10,000 sweeps, since its test of convergence compares a number that never changes; ours stops when
the masses are right. The prototypes are delivered as the network's head. It takes features of any length, so that the
prior, which is nearly uniform, counts for more where they are short; without it the prediction is the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.contrastive import VIEWS, Pretraining, View, Views
from sidedoor.algorithms.features.collect import collect
from sidedoor.algorithms.short_training import for_steps
from sidedoor.algorithms.sinkhorn import balanced
from sidedoor.algorithms.splits import row_of
from sidedoor.data.base import Dataset
from sidedoor.defenses.training.base import TrainingDefense
from sidedoor.engine import Objective, Player, Recipe, Run
from sidedoor.errors import NotApplicable
from sidedoor.method import Count, Positive, Share
from sidedoor.models.base import head
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Build

TEMPERATURE, WEIGHT_DECAY, PRIOR_LR, PRIOR_SCALE = 0.5, 5e-4, 0.1, 0.02
"""Of SimCLR; of the prototypes; of the parameters of the prior, and what they are multiplied with."""


@dataclass(frozen=True)
class VIBE(TrainingDefense):
    """Learn features without labels, then infer the clean class of each row and make prototypes of them the head.

    Shorten `pretraining_epochs`, nearly all of the time, then `steps`. Nearest neighbours among the features must show
    the same class, which takes hundreds of steps on the easiest data. A trigger by which features cluster stays.

    Args:
        pretraining_epochs: passes of contrastive learning.
        pretraining_batch: rows a step of it, at most a quarter of them.
        pretraining_lr: its peak learning rate.
        views: changes that make its views; add "flip" for photographs.
        window: smallest share of the area that a cropped view keeps.
        steps: of the M-steps in all, rounded up to whole epochs.
        renewal: M-steps from one E-step to the next.
        batch: rows a step.
        lr: of the prototypes.
        concentration: κ and ν.
        sharpness: of the plan that the E-step rounds to classes.

    Raises:
        NotApplicable: the head is a convolution of more than one pixel.
    """

    origins: ClassVar[dict[str, str]] = {
        "pretraining_epochs": "ours: as in DBD", "pretraining_batch": "ours: as in DBD", "steps": "release",
        "pretraining_lr": "ours: 0.4 of DBD is worse on digits", "renewal": "release", "batch": "release",
        "views": "ours: without the flip, which makes other digits and signs", "lr": "release",
        "window": "ours: as in DBD; 0.4 suits digits", "concentration": "release", "sharpness": "release",
    }
    quick: ClassVar[dict[str, Any]] = {"pretraining_epochs": 2, "steps": 40, "renewal": 20}

    pretraining_epochs: Count = 1000
    pretraining_batch: Count = 512
    pretraining_lr: Positive = 0.1
    views: tuple[View, ...] = VIEWS
    window: Share = 0.2
    steps: Count = 30_000
    renewal: Count = 1000
    batch: Count = 256
    lr: Positive = 1e-3
    concentration: Positive = 10.0
    sharpness: Positive = 25.0

    def train(self, train: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        model = run.build(build)
        if head(model).weight[0, 0].numel() > 1:
            raise NotApplicable(f"the head of {type(model).__name__} looks at more than one pixel; VIBE has prototypes")
        pretraining = Pretraining(self.pretraining_epochs, self.pretraining_batch, self.pretraining_lr,
                                  TEMPERATURE, Views(self.views, self.window))
        model = pretraining.fit(model, train, run)
        features = collect(model, train, run).features
        objective = Variational(features, train, self)
        self._fit(objective, model, train, run)
        return delivered(model, objective, features.norm(dim=1).mean())

    def _fit(self, objective: Variational, model: nn.Module, train: Dataset, run: Run) -> None:
        """Of the model the prototypes alone, which its head holds meanwhile."""
        layer = head(model.requires_grad_(False))
        layer.weight.copy_(objective.labels.detach().to(layer.weight).reshape(layer.weight.shape))
        layer.weight.requires_grad_(True)
        recipe = for_steps(run, train, self.steps, self.batch, optimizer="sgd", lr=self.lr, momentum=0.9,
                           weight_decay=WEIGHT_DECAY, schedule="constant", precision="32")
        objective.recipe = recipe
        replace(run, augment=None).fit(model, train, objective, name="variational", recipe=recipe)
        model.requires_grad_(True)


class Variational(Objective):
    """Fit prototypes and the prior to clean classes of the rows, which are inferred anew every so many steps."""

    row: Tensor
    v: Tensor
    y: Tensor
    inferred: Tensor
    step: Tensor
    recipe: Recipe

    def __init__(self, features: Float[Tensor, "n d"], data: Dataset, method: VIBE):
        super().__init__()
        v, y, classes = functional.normalize(features.float(), dim=1), data.targets.cpu(), len(data.classes)
        self.method = method
        for name, value in (("row", row_of(data)), ("v", v), ("y", y)):
            self.register_buffer(name, value, persistent=False)
        # The mean of all is one more row of every class, so that a class without any has a direction.
        means = functional.normalize(functional.one_hot(y, classes).float().T @ v + v.mean(0), dim=1)
        self.register_buffer("inferred", y.clone())
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.prior = nn.Parameter(torch.zeros(classes))
        self.labels = nn.Parameter(means)

    def players(self, model: nn.Module) -> list[Player]:
        return [Player([self.labels], self.recipe),
                Player([self.prior], replace(self.recipe, lr=PRIOR_LR, weight_decay=0.0))]

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        prototypes = head(model).weight.flatten(1)
        if self.step % self.method.renewal == 0:
            self.inferred.copy_(self.infer(prototypes))
        self.step += 1
        rows = self.row[batch.index]
        clean = self.inferred[rows]
        classes = self.of_image(self.v[rows], prototypes).gather(1, clean[:, None])[:, 0]
        return -(classes + self.of_label(prototypes)[batch.y, clean]).mean()[None]

    def log_prior(self) -> Float[Tensor, "k"]:
        return (PRIOR_SCALE * self.prior).log_softmax(0)

    def of_image(self, v: Float[Tensor, "b d"], prototypes: Float[Tensor, "k d"]) -> Float[Tensor, "b k"]:
        """ln p(l|x)."""
        cosines = v @ functional.normalize(prototypes, dim=1).T
        return (self.method.concentration * cosines + self.log_prior()).log_softmax(1)

    def of_label(self, prototypes: Float[Tensor, "k d"]) -> Float[Tensor, "k k"]:
        """ln p(y|l), a row for each y."""
        cosines = functional.normalize(self.labels, dim=1) @ functional.normalize(prototypes, dim=1).T
        return (self.method.concentration * cosines).log_softmax(0)

    @torch.no_grad()
    def infer(self, prototypes: Float[Tensor, "k d"]) -> Int[Tensor, "n"]:
        """The clean class of each row, as many of each as the prior says. Labels count from the second time on."""
        scores = self.of_image(self.v, prototypes)
        if self.step > 0:
            scores = scores + self.of_label(prototypes)[self.y]
        return balanced(self.method.sharpness * scores, self.log_prior()).argmax(1)


@torch.no_grad()
def delivered(model: nn.Module, objective: Variational, length: Tensor) -> nn.Module:
    """The model with ln p(l|x) for its logits, up to a constant, of features of a length."""
    layer = head(model)
    prototypes = functional.normalize(layer.weight.flatten(1), dim=1)
    layer.weight.copy_((objective.method.concentration / length * prototypes).reshape(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.copy_(objective.log_prior())
    return model
