"""ULP: a model audit by universal litmus patterns, images whose logits a linear classifier tells backdoors by.

Paper: Kolouri, Saha, Pirsiavash, Hoffmann, "Universal Litmus Patterns: Revealing Backdoor Attacks in CNNs", CVPR 2020,
arXiv:1906.10842.

Patterns and classifier are optimised together on a pool of clean and backdoored models of the suspect's architecture.
The paper is given hundreds of each with triggers of one kind; ours trains a few on the defender's images, with triggers
of many kinds. The release steps patterns of 0 to 255 by 1000 times the gradient and keeps the epoch that is most
accurate on models held out; ours uses Adam in shares of the range and keeps the step of least loss. Ours gives the
classifier logits in standard deviations, since the suspect was trained on more data than its shadows and has larger
ones, and in descending order: with a place for each class, as in the paper, so few models teach it their own targets,
and it tells no others apart.
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
from sidedoor.evidence import Exhibit, Finding, Rule
from sidedoor.method import Count, NonNegative, Positive
from sidedoor.tasks.task import Task


@dataclass(frozen=True)
class ULP(ModelAudit):
    """Ask a model about patterns that tell backdoored shadow models from clean ones.

    Args:
        patterns: that the model is asked about.
        shadows: clean shadow models, and as many backdoored ones.
        training_steps: of training each.
        steps: of optimising patterns and classifier.
        pattern_lr: of Adam for the patterns, as a share of the range of the images.
        lr: of Adam for the classifier.
        smoothness: weight of the patterns' total variation.
    """

    origins: ClassVar[dict[str, str]] = {
        "patterns": "paper: 10, the most of 1, 5 and 10", "shadows": "ours: trained in seconds; release: 400 of each",
        "training_steps": "ours: enough for two hundred small images", "steps": "ours: the held-out models choose one",
        "pattern_lr": "ours: Adam in place of steepest descent", "lr": "ours: release: Adam, 0.001, for 1000 epochs",
        "smoothness": "release: 1e-6, for a sum over values of 0 to 255; ours is a mean in shares of the range",
    }
    quick: ClassVar[dict[str, Any]] = {"shadows": 2, "training_steps": 20, "steps": 5}
    needs: ClassVar[Needs] = Needs(model="weights", clean="labelled", shadows=True)
    sign_tested_in: ClassVar[str] = "tests/defenses/test_ulp.py::test_leaning_models_score_above_others_and_are_flagged"

    patterns: Count = 10
    shadows: Count = 12
    training_steps: Count = 150
    steps: Count = 60
    pattern_lr: Positive = 0.01
    lr: Positive = 0.01
    smoothness: NonNegative = 1e-3

    def inspect(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Finding:
        """The log-odds that the model is backdoored, flagged above 0 as in the paper; the patterns are exhibits.

        Raises:
            NotApplicable: shadow models like this one cannot be made, or the images have no bounded range.
        """
        space = bounded(clean.space)
        pool = shadow_pool(model, clean, task, run, self.shadows, self.training_steps)
        start = torch.rand(self.patterns, *clean.shape, generator=run.rng("patterns"))
        classifier = run.within("classifier").build(lambda: nn.Linear(self.patterns * len(clean.classes), 1))
        found = tuned(pool, start * (space.high - space.low) + space.low, classifier,
                      Tuning(self.steps, self.lr, self.pattern_lr, self.smoothness), space, run)
        with torch.no_grad():
            odds = found.suspicion(run.frozen(model)).item()
        shown = ((found.queries.cpu() - space.low) / (space.high - space.low)).clamp(0, 1)
        exhibits = [Exhibit(f"pattern_{n}", "picture", "A litmus pattern", values) for n, values in enumerate(shown)]
        return Finding(odds, Rule(odds, 0.0), exhibits=tuple(exhibits), queries=self.patterns)
