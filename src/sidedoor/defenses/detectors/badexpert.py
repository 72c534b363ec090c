"""BaDExpert: an input detector that asks a model which kept only the backdoor, and one which kept only the rest.

Paper: Xie, Qi, He, Li, Wang, Mittal, "BaDExpert: Extracting Backdoor Functionality for Accurate Backdoor Input
Detection", ICLR 2024, arXiv:2308.12439.

The expert is the model fine-tuned on clean images with wrong labels until it knows them no longer; the backdoor, which
no clean image exercises, stays. A second copy is fine-tuned on clean images until the backdoor fades. A stamped input
keeps its prediction in the expert and loses it in the other. The release stops the expert by its accuracy on test data;
ours by that on the images it is trained with, and after more than one epoch where these are few. Probabilities are
judged as in the paper, by two lines through its plane of both, in a form that stays in [0, 1].
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.defenses.detectors.base import Detect, InputDetector
from sidedoor.engine import Objective, Run
from sidedoor.method import Count, Positive, Share
from sidedoor.tasks.task import Supervised, Task
from sidedoor.types import Batch, Images, Index

TINY = 1e-8


@dataclass(frozen=True)
class BaDExpert(InputDetector):
    """Score an input by how sure the expert is, and the repaired model is not, of its prediction.

    Args:
        expert_epochs: most epochs of the expert.
        expert_lr: its learning rate, of Adam.
        accuracy: on clean images, below which the expert is finished.
        repair_epochs: of the repaired model.
        repair_lr: its largest learning rate, of SGD.
        batch: samples per step.
    """

    origins: ClassVar[dict[str, str]] = {
        "expert_epochs": "ours: release has one, over many more images", "expert_lr": "release: of ResNets",
        "accuracy": "release", "repair_epochs": "release", "repair_lr": "release",
        "batch": "ours: the defender's clean data are few",
    }
    quick: ClassVar[dict[str, Any]] = {"expert_epochs": 8, "repair_epochs": 2}
    needs: ClassVar[Needs] = Needs(model="weights", clean="labelled")

    expert_epochs: Count = 50
    expert_lr: Positive = 1e-4
    accuracy: Share = 0.2
    repair_epochs: Count = 10
    repair_lr: Positive = 0.1
    batch: Count = 32

    @torch.enable_grad()
    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        """A function from inputs to suspicion in [0, 1]."""
        frozen = run.frozen(model)
        expert, repaired = self.expert(model, clean, task, run), self.repaired(model, clean, task, run)

        @torch.no_grad()
        def detect(x: Images, index: Index) -> Float[Tensor, "b"]:
            with run.autocast():
                label = task.predict(frozen, x).argmax(1, keepdim=True)
                kept, left = (task.predict(each, x).gather(1, label)[:, 0] for each in (expert, repaired))
            return suspicion(kept, left)

        return detect

    def expert(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        """A model that no longer knows clean images."""
        recipe = replace(run.recipe, optimizer="adam", lr=self.expert_lr, momentum=0.9, weight_decay=0.0,
                         schedule="constant", epochs=self.expert_epochs, batch=self.batch)
        return run.fit(trainable(model), clean, WrongLabels(task, clean, run, self.accuracy), name="expert",
                       recipe=recipe)

    def repaired(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        """A model in which the backdoor has faded."""
        recipe = replace(run.recipe, optimizer="sgd", lr=self.repair_lr, epochs=self.repair_epochs, batch=self.batch)
        return run.fit(trainable(model), clean, Supervised(task), name="repaired", recipe=recipe)


def suspicion(expert: Float[Tensor, "b"], repaired: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """1 where the expert is sure of a prediction and the repaired model rules it out, 0 where it is the other way."""
    ratio = 2 * repaired / expert.clamp(min=TINY)
    distance = (1 - expert) / (0.5 - repaired).clamp(min=TINY)
    # Probabilities of exactly 1 would make the second line say that both models being sure is suspicious.
    lower = torch.where(repaired < 0.5, ratio.minimum(distance), ratio)
    return 1 / (1 + lower)


def trainable(model: nn.Module) -> nn.Module:
    """A copy whose parameters all have gradients."""
    return copy.deepcopy(model).requires_grad_(True)


class WrongLabels(Objective):
    """Cross-entropy towards the class after the true one, until few clean images are classified as before.

    Args:
        accuracy: on the clean data, below which it stops.
    """

    def __init__(self, task: Task, clean: Dataset, run: Run, accuracy: float):
        super().__init__()
        self.task, self.clean, self.run, self.accuracy = task, clean, run, accuracy

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch.x), (batch.y + 1) % self.task.classes)[None]

    def end_epoch(self, model: nn.Module, epoch: int) -> bool:
        def rows(batch: Batch) -> dict[str, Tensor]:
            return {"right": self.task.agree(self.task.predict(model, batch.x), batch.y)}

        return self.run.per_sample(model, self.clean, rows)["right"].mean().item() < self.accuracy
