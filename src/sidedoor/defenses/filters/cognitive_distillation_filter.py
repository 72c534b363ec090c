"""Cognitive Distillation as a data filter: how little of a row's image the model needs for its answer.

Paper: Huang, Ma, Erfani, Bailey, "Distilling Cognitive Backdoor Patterns within an Image", ICLR 2023, arXiv:2301.10908.

The score of the input detector of that name, of a model trained on the suspected data. The released code takes rows
whose mask is far below those of clean images; ours ranks rows and needs no clean ones: the cost of the mask is chosen
on the suspected rows themselves, whose median is that of clean ones while poison is a minority.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sidedoor.algorithms.inspection import inspection_model
from sidedoor.algorithms.inversion.cognitive_pattern import PatternSearch, cost_for
from sidedoor.data.base import Dataset
from sidedoor.defenses.filters.base import DataFilter
from sidedoor.engine import Run
from sidedoor.method import Count, NonNegative, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Build


@dataclass(frozen=True)
class CognitiveDistillationFilter(DataFilter):
    """Score rows by the share of their pixels that the smallest mask with the same logits leaves out.

    It is for small triggers; it takes `steps` gradients of every row.

    Args:
        keep: share of the pixels that the median mask keeps.
        samples: rows on which the cost of the mask is chosen.
        steps: of Adam with betas (0.1, 0.1).
        lr: its learning rate.
        smoothness: weight of the mean squared difference between neighbours in the mask.
    """

    inspects: ClassVar[bool] = True
    origins: ClassVar[dict[str, str]] = {
        "keep": "ours: in place of a fixed cost, which means something else for every network",
        "samples": "ours: enough for a median", "steps": "paper", "lr": "paper", "smoothness": "release: its README",
    }
    quick: ClassVar[dict[str, Any]] = {"steps": 10, "samples": 8}
    sign_tested_in: ClassVar[str] = (
        "tests/defenses/test_cognitive_distillation_filter.py::test_rows_whose_answer_rests_on_few_pixels_are_suspicious")

    keep: Share = 0.3
    samples: Count = 32
    steps: Count = 100
    lr: Positive = 0.1
    smoothness: NonNegative = 10.0

    def score(self, train: Dataset, task: Task, build: Build, run: Run) -> Float[Tensor, "n"]:
        """Shares of pixels, in [0, 1]."""
        model = run.frozen(inspection_model(train, task, build, run))
        search = PatternSearch(self.steps, self.lr, self.smoothness)
        cost = cost_for(self.keep, model, train, search, self.samples, run)

        def rows(batch: Batch) -> dict[str, Tensor]:
            costs = torch.full((len(batch.x),), cost, device=batch.x.device)
            return {"left": 1 - search.masks(model, batch.x, batch.index, costs, run).mean((1, 2))}

        return run.per_sample(model, train, rows)["left"]
