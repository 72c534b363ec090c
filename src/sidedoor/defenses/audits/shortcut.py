"""Shortcut audit: a model audit that looks for a small universal perturbation towards some class.

A backdoor is a shortcut to its class: one change of few values sends most images there. The idea is in universal
adversarial perturbations (Moosavi-Dezfooli, Fawzi, Fawzi, Frossard, "Universal Adversarial Perturbations", CVPR 2017,
arXiv:1610.08401), and their use in audits in DL-TND (Wang, Zhang, Liu, Chen, Xiong, Wang, ECCV 2020, arXiv:2007.15802);
this form of it is ours, so no paper's rule stands beside it.

Half of the clean images fit a perturbation for every class, at once; the other half measures how many images of other
classes it sends there, for a perturbation fits a few images of any model. Natural features are shortcuts too: the score
means something beside that of clean models. It is dense, so it finds blended and soft triggers at small bounds; a small
hard patch may be out of reach, which Neural Cleanse finds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from sidedoor.algorithms.adversarial.universal_towards import (
    Steps,
    box,
    flip_rates,
    of_other_classes,
    universal_towards,
)
from sidedoor.data.base import Dataset
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.evidence import Exhibit, Finding
from sidedoor.method import Count, Positive
from sidedoor.tasks.task import Task


@dataclass(frozen=True)
class Shortcut(ModelAudit):
    """Measure how many held-out images a bounded universal perturbation sends to each class.

    Args:
        eps: bound of every value of the perturbations, as a share of the range of the images. At a good one clean
            models score about 0.3.
        steps: sign steps of an eighth of the bound.
        batch: images per class and step.
        samples: most clean images; half of them fit the perturbations.
    """

    origins: ClassVar[dict[str, str]] = {
        "eps": "ours: 16 levels of 255, which suits Fashion-MNIST; digits of 16×16 need 0.1",
        "steps": "ours: later ones change little", "batch": "ours: a few images of every class",
        "samples": "ours: the standard error of the score is below five points",
    }
    quick: ClassVar[dict[str, Any]] = {"steps": 20, "batch": 16}
    needs: ClassVar[Needs] = Needs(model="gradients", clean="images")

    eps: Positive = 16 / 255
    steps: Count = 40
    batch: Count = 32
    samples: Count = 256

    def inspect(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Finding:
        """The largest held-out flip rate, and that of each class; its class is suspected.

        Raises:
            NotApplicable: the images have no bounded range, or the model gives all of them one class.
        """
        frozen, space, labels = run.frozen(model), box(clean), torch.arange(task.classes, device=run.device)
        chosen = torch.randperm(len(clean), generator=run.rng("images"))[: self.samples]
        x = clean.fetch(chosen, run.device).x
        fitting, held_out = x.chunk(2) if len(x) > 1 else (x, x)
        how = Steps(self.eps, self.steps, self.batch)
        pool, others = (of_other_classes(frozen, half, labels, self.samples, run) for half in (fitting, held_out))
        delta = universal_towards(frozen, fitting, pool, labels, how, space, run)
        flips = flip_rates(frozen, held_out, others, labels, delta, space, run)
        best = int(flips.argmax())
        scaled = delta[best].cpu() / (2 * self.eps * (space.high - space.low)) + 0.5
        shown = Exhibit("perturbation", "picture", "universal perturbation, grey is no change", scaled.clamp(0, 1))
        return Finding(flips[best].item(), suspected=(best,), per_class=tuple(flips.tolist()), exhibits=(shown,))
