"""REFINE: a purifier that redraws inputs as another class, which a permutation of the outputs turns back.

Paper: Chen, Shao, Huang, Li, Chen, Qin, Ren, "REFINE: Inversion-Free Backdoor Defense via Model Reprogramming", ICLR
2025, arXiv:2502.18508.

A U-Net in front of the model learns, from clean images and the model's own predictions of them, to draw what the model
takes for the class that stands for theirs; a supervised contrastive loss keeps drawings of a class together. Ours
permutes classes by one random cycle, and its U-Net ends in a sigmoid where the release clamps, so that no pixel loses
its gradient. The drawing is as hard to learn as classification, so accuracy falls where images are few; the paper has a
fifth of the training data. Training may also fail altogether: with 269 digits it did in front of a model with a blended
trigger, whose accuracy was that of chance behind it, at this learning rate and at a fifth of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.defenses.purifiers.base import Purifier
from sidedoor.engine import Objective, Recipe, Run
from sidedoor.errors import NotApplicable
from sidedoor.method import Count, NonNegative, Positive
from sidedoor.models.unet import unet
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Images, Index, Purify


@dataclass(frozen=True)
class REFINE(Purifier):
    """Redraw inputs so that the model gives them other classes, and permute its outputs back.

    Args:
        weight: of the contrastive loss.
        temperature: of the contrastive loss.
        epochs: over the clean images.
        lr: of Adam.
    """

    origins: ClassVar[dict[str, str]] = {
        "weight": "release", "temperature": "ours: that of Khosla et al., NeurIPS 2020", "epochs": "release",
        "lr": "release",
    }
    quick: ClassVar[dict[str, Any]] = {"epochs": 1}
    needs: ClassVar[Needs] = Needs(model="gradients", clean="images")
    relabels: ClassVar[bool] = True

    weight: NonNegative = 0.1
    temperature: Positive = 0.07
    epochs: Count = 150
    lr: Positive = 0.01

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Purify:
        """A function from inputs to drawings.

        Raises:
            NotApplicable: a single class, which no other can stand for.
        """
        if task.classes < 2:
            raise NotApplicable(f"{task.classes} class given; another one must stand for it")
        shape, order = clean.shape, cycle(task.classes, run.rng("classes"))
        objective = Redrawn(lambda x: task.predict(model, x), order, self.weight, self.temperature)
        recipe = Recipe("adam", lr=self.lr, weight_decay=0.0, epochs=self.epochs, batch=64)
        with torch.enable_grad():
            network = replace(run, augment=None).fit(run.build(lambda: unet(shape, 1)), clean, objective,
                                                     name="redrawing", recipe=recipe)

        def undo(output: Any) -> Any:
            return output[:, order.to(output.device)] if isinstance(output, Tensor) and output.ndim == 2 else output

        @torch.no_grad()
        def purify(x: Images, index: Index) -> tuple[Images, Callable[[Any], Any]]:
            with run.autocast():
                return torch.sigmoid(network(x).to(x.dtype)), undo

        return purify


class Redrawn(Objective):
    """Cross-entropy of permuted probabilities of drawings, and how far drawings of a class are apart.

    Args:
        judge: images -> probabilities.
        order: the class that stands for each class.
    """

    order: Tensor

    def __init__(self, judge: Callable[[Images], Tensor], order: Int[Tensor, "k"], weight: float, temperature: float):
        super().__init__()
        self.judge, self.weight, self.temperature = judge, weight, temperature
        self.register_buffer("order", order)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            label = self.judge(batch.x).argmax(1)
        drawn = torch.sigmoid(model(batch.x).float())
        permuted = self.judge(drawn).float()[:, self.order].clamp(0, 1)
        with torch.autocast(drawn.device.type, enabled=False):
            wrong = functional.binary_cross_entropy(permuted, functional.one_hot(label, len(self.order)).float())
        return (wrong + self.weight * contrast(drawn.flatten(1), label, self.temperature))[None]


def contrast(features: Float[Tensor, "b d"], label: Int[Tensor, "b"], temperature: float) -> Float[Tensor, ""]:
    """Supervised contrastive loss (Khosla et al., NeurIPS 2020, arXiv:2004.11362) of directions."""
    unit = functional.normalize(features)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    near = (unit @ unit.T / temperature).masked_fill(itself, -torch.inf)
    alike = (label[:, None] == label) & ~itself
    log_share = torch.where(alike, near - near.logsumexp(1, keepdim=True), 0)
    return -(log_share.sum(1) / alike.sum(1).clamp(min=1)).mean()


def cycle(classes: int, rng: torch.Generator) -> Int[Tensor, "k"]:
    """A random permutation that is one cycle through all classes, so that none keeps its place."""
    round_trip = torch.randperm(classes, generator=rng)
    return torch.empty_like(round_trip).scatter(0, round_trip, round_trip.roll(-1))
