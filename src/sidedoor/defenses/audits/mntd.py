"""MNTD: a model audit by a meta-classifier, a small network that reads a model's answers to tuned queries.

Paper: Xu, Wang, Li, Borisov, Gunter, Li, "Detecting AI Trojans Using Meta Neural Analysis", S&P 2021, arXiv:1910.03137.

Queries and meta-classifier are optimised together on shadow models that the defender trains on its own images, half of
them with backdoors drawn from the paper's "jumbo" distribution. The release trains 2048 of each; ours a few, of which
some choose the step at which the optimisation is stopped. Queries stay within the range of the images, which the
paper's may leave, and models answer in evaluation mode, where the release leaves dropout on. Ours reads logits in
standard deviations, since the suspect was trained on more data than its shadows, and in descending order: with a place
for each class, as in the paper, so few models teach it their own targets. The one-class variant, of clean shadow models
alone, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from sidedoor.algorithms.shadow_pool import bounded, shadow_pool
from sidedoor.algorithms.tuned_queries import Tuning, tuned
from sidedoor.data.base import Dataset
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.evidence import Finding, Rule
from sidedoor.method import Count, Positive
from sidedoor.tasks.task import Task


@dataclass(frozen=True)
class MNTD(ModelAudit):
    """Let a meta-classifier judge a model's answers to queries that were tuned with it.

    Args:
        queries: that the model is asked about.
        width: hidden units of the meta-classifier.
        shadows: clean shadow models, and as many backdoored ones.
        training_steps: of training each.
        steps: of optimising queries and meta-classifier.
        lr: of Adam, for both.
    """

    origins: ClassVar[dict[str, str]] = {
        "queries": "paper: 10", "width": "paper: 20", "shadows": "ours: trained in seconds; paper: 2048 of each",
        "training_steps": "ours: enough for two hundred small images", "steps": "ours: the held-out models choose one",
        "lr": "ours: paper: 0.001, for thousands of shadow models",
    }
    quick: ClassVar[dict[str, Any]] = {"shadows": 2, "training_steps": 20, "steps": 5}
    needs: ClassVar[Needs] = Needs(model="weights", clean="labelled", shadows=True)
    sign_tested_in: ClassVar[str] = "tests/defenses/test_mntd.py::test_models_whose_bias_differs_are_told_apart"

    queries: Count = 10
    width: Count = 20
    shadows: Count = 12
    training_steps: Count = 150
    steps: Count = 60
    lr: Positive = 0.01

    def inspect(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Finding:
        """The log-odds that the model is backdoored; flagged above 0, the middle of the shadow models.

        Raises:
            NotApplicable: shadow models like this one cannot be made, or the images have no bounded range.
        """
        space = bounded(clean.space)
        pool = shadow_pool(model, clean, task, run, self.shadows, self.training_steps)
        images = clean.fetch(torch.arange(len(clean))).x
        noise = torch.randn(self.queries, *clean.shape, generator=run.rng("queries"))
        start = (images.mean(0) + images.std(0) * noise).clamp(space.low, space.high)
        found = tuned(pool, start, run.within("meta-classifier").build(lambda: self.classifier(len(clean.classes))),
                      Tuning(self.steps, self.lr, self.lr), space, run)
        with torch.no_grad():
            odds = found.suspicion(run.frozen(model)).item()
        return Finding(odds, Rule(odds, 0.0), queries=self.queries)

    def classifier(self, classes: int) -> nn.Module:
        """The meta-classifier, of all answers as one vector."""
        return nn.Sequential(nn.Linear(self.queries * classes, self.width), nn.ReLU(), nn.Linear(self.width, 1))
