"""MM-BD: a data-free model audit that compares how large a margin each class can reach.

Paper: Wang, Xiang, Miller, Kesidis, "MM-BD: Post-Training Detection of Backdoor Attacks with Arbitrary Backdoor Pattern
Types Using a Maximum Margin Statistic", IEEE Symposium on Security and Privacy 2024, arXiv:2205.06900.

A class that a backdoor leads to reaches a larger margin than others, whatever the trigger. Ours walks by steps of fixed
length and projects after each; the released code clamps only inside the forward pass, where the gradient dies at the
bounds, and makes a new optimiser for every step. All classes and starts are one batch.

The score is the largest margin over the median one. The paper's p-value, of the largest margin under a gamma
distribution that is fitted to the others, stands beside it: fitted to nine numbers it calls many clean models
backdoored. Margins grow with training, so the score is to be compared with that of models of the same recipe.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor, nn

from sidedoor.algorithms.adversarial.universal_towards import box, margin
from sidedoor.core.progress import Advance
from sidedoor.data.base import Dataset
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.evidence import Finding, Rule
from sidedoor.method import Count, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Space


@dataclass(frozen=True)
class MMBD(ModelAudit):
    """Maximise the margin of each class over the image space, from random starts.

    Args:
        starts: random images per class.
        steps: of projected gradient ascent.
        step: length of a step, as a share of the diagonal of the image space.
        alpha: significance level of the paper's rule.
    """

    origins: ClassVar[dict[str, str]] = {
        "starts": "paper: 30 random initialisations", "steps": "release", "alpha": "paper: 0.05",
        "step": "ours: the release's learning rate means nothing without its optimiser's flaw",
    }
    quick: ClassVar[dict[str, Any]] = {"starts": 3, "steps": 30}
    needs: ClassVar[Needs] = Needs(model="gradients")

    starts: Count = 30
    steps: Count = 300
    step: Positive = 0.02
    alpha: Share = 0.05

    def inspect(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Finding:
        """The largest margin over the median one, and that of each class; its class is suspected.

        Raises:
            NotApplicable: the images have no bounded range, or half of the classes never win.
        """
        margins = self.margins(model, clean, task.classes, run)
        median = margins.quantile(0.5)
        if median <= 0:
            raise NotApplicable(f"the median of the maximum margins is {median.item():.3g}: half of {task.classes} "
                                "classes were never the model's answer")
        best = int(margins.argmax())
        return Finding((margins[best] / median).item(), self.rule(margins), (best,), tuple((margins / median).tolist()))

    def margins(self, model: nn.Module, clean: Dataset, classes: int, run: Run) -> Float[Tensor, "k"]:
        """The largest margin found for each class, in logits, on the CPU."""
        frozen, space, rng = run.frozen(model), box(clean), run.rng("starts")
        unit = torch.rand(classes * self.starts, *clean.shape, generator=rng).to(run.device)
        x = unit * (space.high - space.low) + space.low
        labels = torch.arange(classes, device=run.device).repeat_interleave(self.starts)
        with run.progress.task("maximum margins", self.steps * len(x)) as advance:
            found = [self._ascend(frozen, x[part], labels[part], space, run, advance)
                     for part in run.chunks(len(x), x[0].numel())]
        return torch.cat(found).view(classes, -1).amax(1).cpu()

    def rule(self, margins: Float[Tensor, "k"]) -> Rule | None:
        """The paper's: one minus the p-value of the largest margin, against one minus its level; None where no gamma
        distribution can be fitted to the others.
        """
        ordered = margins.double().sort().values.numpy()
        if len(ordered) < 4 or ordered[0] == ordered[-2]:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                fitted = stats.gamma(*stats.gamma.fit(ordered[:-1]))
            except (stats.FitError, ValueError):
                return None
            below = float(fitted.cdf(ordered[-1])) ** len(ordered)
        return Rule(below, 1 - self.alpha) if 0 <= below <= 1 else None

    def _ascend(self, model: nn.Module, x: Images, labels: Int[Tensor, "b"], space: Space, run: Run,
                advance: Advance) -> Float[Tensor, "b"]:
        """The largest margin of each image's class on the way."""
        length = self.step * x[0].numel() ** 0.5 * (space.high - space.low)
        best = torch.full(labels.shape, -torch.inf, device=x.device)
        for _ in range(self.steps):
            x = x.detach().requires_grad_(True)
            with run.autocast():
                reached = margin(model(x).float(), labels)
            (gradient,) = torch.autograd.grad(reached.sum(), x)
            best = best.maximum(reached.detach())
            norm = gradient.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
            x = (x.detach() + length * gradient / norm).clamp(space.low, space.high)
            advance(len(x))
        return best
