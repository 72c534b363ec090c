"""FreeEagle: a data-free model audit that looks for classes which other classes' intermediate maps lean towards.

Paper: Fu, Zhang, Ji, Wang, Lin, Feng, Yin, "FreeEagle: Detecting Complex Neural Trojans in Data-Free Cases", USENIX
Security 2023, arXiv:2302.14500.

The network is cut; for every class a map behind the cut is made that the rest of the network takes for that class, and
what it gives the other classes beside is looked at. The target of a backdoor stands out in the column of all classes,
or, for one of a single source class, in one pair. Ours compares logarithms of the probabilities, which the quartiles of
values about 1e-6 do not, averages over several starts, and begins at the mean activation that random images cause. The
paper's threshold is chosen on benign models of the same kind, as the evaluator's is, so no rule stands beside the
score. On digits and three convolutions the most suspicious
class is the target, but clean models score as high; it is meant for deeper networks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.adversarial.universal_towards import box
from sidedoor.algorithms.features.cut import Cut, Maps, cut
from sidedoor.data.base import Dataset
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.evidence import Finding
from sidedoor.method import Count, NonNegative, Place, Positive
from sidedoor.tasks.task import Task

NOISE = 16
"""Random images that the scale of the maps is taken from."""


@dataclass(frozen=True)
class FreeEagle(ModelAudit):
    """Make maps of every class behind a cut and compare what the rest of the network gives other classes for them.

    Args:
        layer: stage of the network that is cut behind, among those with maps; -1 is the last.
        starts: maps per class.
        steps: of Adam.
        lr: of Adam, in units of the mean activation.
        weight_decay: of Adam.
        triggers: "agnostic" looks for a class that all others lean towards, "specific" for a pair of classes.
    """

    origins: ClassVar[dict[str, str]] = {
        "layer": "ours: the last stages keep what tells classes apart", "starts": "ours: one start leaves noise",
        "steps": "release", "lr": "release", "weight_decay": "release", "triggers": "paper: its first kind",
    }
    quick: ClassVar[dict[str, Any]] = {"steps": 60}
    needs: ClassVar[Needs] = Needs(model="weights")

    layer: Place = -1
    starts: Count = 4
    steps: Count = 1000
    lr: Positive = 0.01
    weight_decay: NonNegative = 0.005
    triggers: Literal["agnostic", "specific"] = "agnostic"

    def inspect(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Finding:
        """How many interquartile ranges the largest value lies above the upper quartile; so far each class's largest.

        Raises:
            NotApplicable: the network cannot be cut there, or all values are equal.
        """
        leaning = self.leaning(model, clean, task.classes, run)
        apart = ~torch.eye(task.classes, dtype=torch.bool)
        if self.triggers == "agnostic":
            values = reference = torch.where(apart, leaning, 0).sum(0) / (task.classes - 1)
        else:
            values, reference = leaning.masked_fill(~apart, -math.inf).amax(0), leaning[apart]
        low, high = reference.quantile(0.25), reference.quantile(0.75)
        if high <= low:
            raise NotApplicable("all classes lean towards each other alike, so none stands out")
        index = (values - high) / (high - low)
        best = int(index.argmax())
        return Finding(index[best].item(), suspected=(best,), per_class=tuple(index.tolist()))

    def leaning(self, model: nn.Module, clean: Dataset, classes: int, run: Run) -> Float[Tensor, "k k"]:
        """The mean log-probability of each class (columns) for the maps made of each (rows), on the CPU."""
        parts = cut(run.frozen(model), clean.shape, self.layer)
        scale, least = self._scale(parts, clean, run)
        labels = torch.arange(classes, device=run.device).repeat_interleave(self.starts)
        z, found = torch.rand(len(labels), *scale.shape, generator=run.rng("starts")).to(run.device), []
        with run.progress.task("maps of classes", len(z)) as advance:
            for part in run.chunks(len(z), scale.numel()):
                found.append(self._answers(parts, z[part], scale, least, labels[part], run))
                advance(len(found[-1]))
        return torch.cat(found).view(classes, self.starts, classes).mean(1)

    def _answers(self, parts: Cut, z: Maps, scale: Float[Tensor, "c h w"], least: float, labels: Int[Tensor, "b"],
                 run: Run) -> Float[Tensor, "b k"]:
        """Log-probabilities of the rest of the network for maps that it was made to take for the labels."""
        z = z.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([z], lr=self.lr, weight_decay=self.weight_decay)
        for _ in range(self.steps):
            with run.autocast():
                logits = parts.tail(scale * z).float()
            (z.grad,) = torch.autograd.grad(functional.cross_entropy(logits, labels, reduction="sum"), z)
            optimiser.step()
            z.data.clamp_(min=least)
        with torch.no_grad(), run.autocast():
            return parts.tail(scale * z).float().log_softmax(1).cpu()

    @torch.no_grad()
    def _scale(self, parts: Cut, clean: Dataset, run: Run) -> tuple[Float[Tensor, "c h w"], float]:
        """The mean activation of each channel for random images, and the least value: 0 behind a ReLU."""
        space = box(clean)
        unit = torch.rand(NOISE, *clean.shape, generator=run.rng("noise")).to(run.device)
        maps = parts.maps(unit * (space.high - space.low) + space.low)
        scale = maps.abs().mean((0, 2, 3)).clamp(min=1e-6)[:, None, None].expand(maps.shape[1:])
        return scale, 0.0 if maps.min() >= 0 else -math.inf
