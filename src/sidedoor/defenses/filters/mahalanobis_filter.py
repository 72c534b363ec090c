"""Mahalanobis distance to the labelled class: the baseline of data filters that have clean samples.

Paper: Lee, Lee, Lee, Shin, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
Attacks", NeurIPS 2018, arXiv:1807.03888.

The class-conditional Gaussians of the paper, of penultimate features of a model trained on the suspected data, under
one covariance for all classes. The paper asks for the nearest class at test time; ours asks for the class that a row is
labelled with. Scores are not standardised within classes: the shared covariance puts all on one scale, and of a class
that is half poisoned the median would say what poison looks like.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from sidedoor.algorithms.features.class_statistics import class_statistics
from sidedoor.algorithms.features.collect import collect
from sidedoor.algorithms.inspection import inspection_model
from sidedoor.data.base import Dataset
from sidedoor.defenses.filters.base import GuidedFilter
from sidedoor.engine import Run
from sidedoor.tasks.task import Task
from sidedoor.types import Build


@dataclass(frozen=True)
class MahalanobisFilter(GuidedFilter):
    """Score rows by the distance of their features to the mean of clean samples of the class that they are labelled as.

    Raises:
        NotApplicable: a class without a clean sample.
    """

    inspects: ClassVar[bool] = True

    def score(self, train: Dataset, clean: Dataset, task: Task, build: Build, run: Run) -> Float[Tensor, "n"]:
        """Squared Mahalanobis distances."""
        model = inspection_model(train, task, build, run)
        seen, held = collect(model, train, run), collect(model, clean, run)
        distance = class_statistics(held.features, held.labels, task.classes).distances(seen.features)
        return distance.gather(1, seen.labels[:, None])[:, 0].float()
