"""Mahalanobis distance to the predicted class: the baseline of input detectors.

Paper: Lee, Lee, Lee, Shin, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
Attacks", NeurIPS 2018, arXiv:1807.03888.

The class-conditional Gaussians of the paper, of penultimate features under one shared covariance. The paper takes the
nearest class; ours takes the predicted one, since a trigger changes the prediction to a class whose clean samples it is
unlike. It perturbs no input and combines no layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.features.class_statistics import class_statistics
from sidedoor.algorithms.features.collect import collect
from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.defenses.detectors.base import Detect, InputDetector
from sidedoor.engine import Run
from sidedoor.models.base import penultimate
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Index


@dataclass(frozen=True)
class Mahalanobis(InputDetector):
    """Score an input by the distance of its features to the mean of clean samples of the class it is predicted as."""

    needs: ClassVar[Needs] = Needs(model="weights", clean="labelled")

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        """A function from inputs to squared Mahalanobis distances.

        Raises:
            NotApplicable: a class without a clean sample.
        """
        frozen = run.frozen(model)
        _, features, labels = collect(frozen, clean, run)
        statistics = class_statistics(features, labels, task.classes)

        @torch.no_grad()
        def detect(x: Images, index: Index) -> Float[Tensor, "b"]:
            with run.autocast():
                logits, given = penultimate(frozen, x)
            distance = statistics.distances(given.float().cpu())
            return distance.gather(1, logits.argmax(1, keepdim=True).cpu())[:, 0].float().to(x.device)

        return detect
