"""SCALE-UP with clean images: scaled prediction consistency, standardised by that of clean images of the same class.

Paper: Guo, Li, Chen, Guo, Sun, Liu, "SCALE-UP: An Efficient Black-box Input-level Backdoor Detection via Analyzing
Scaled Prediction Consistency", ICLR 2023, arXiv:2302.03251.

The data-limited form of `scale_up`, whose limits it shares; it asks for labels alone, so ties stay. The released code
standardises by one mean and deviation of all classes, which leaves the order of inputs as it is. Ours has them for
every predicted class, as the paper says; those of a class are drawn towards those of all with the weight of one image,
so that a class that no clean image is predicted as has the ones of all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.defenses.detectors.base import Detect, InputDetector
from sidedoor.defenses.detectors.scale_up import SCALES, require_scales, scaled_consistency
from sidedoor.engine import Run
from sidedoor.method import Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Images, Index

LEAST = 1e-3
"""Smallest standard deviation of a consistency."""


@dataclass(frozen=True)
class ScaleUpLimited(InputDetector):
    """Score an input by how far its scaled prediction consistency is above that of clean images of its class.

    Args:
        scales: factors of the pixel values, which are clipped to the range of images.
        centre: the value that scaling leaves as it is, as a share of that range: 0 brightens, 0.5 raises the contrast.

    Raises:
        ConfigError: no scales.
    """

    origins: ClassVar[dict[str, str]] = {"scales": "release: the five odd factors", "centre": "paper"}
    needs: ClassVar[Needs] = Needs(model="labels", clean="images")

    scales: tuple[Positive, ...] = SCALES
    centre: Share = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_scales(self.scales)

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        """A function from inputs to standard deviations above the mean of their predicted class."""
        frozen = run.frozen(model)
        consistency = scaled_consistency(frozen, self.scales, self.centre, clean.space, task, run)

        def rows(batch: Batch) -> dict[str, Tensor]:
            return {"label": task.predict(frozen, batch.x).argmax(1), "score": consistency(batch.x, batch.index)}

        table = run.per_sample(frozen, clean, rows)
        mean, deviation = class_moments(table["score"], table["label"].long(), task.classes)
        mean, deviation = mean.to(run.device), deviation.to(run.device)

        @torch.no_grad()
        def detect(x: Images, index: Index) -> Float[Tensor, "b"]:
            with run.autocast():
                label = task.predict(frozen, x).argmax(1)
            return (consistency(x, index) - mean[label]) / deviation[label]

        return detect


def class_moments(score: Float[Tensor, "n"], label: Int[Tensor, "n"],
                  classes: int) -> tuple[Float[Tensor, "k"], Float[Tensor, "k"]]:
    """Mean and standard deviation of scores by class, each drawn towards those of all by the weight of one sample."""
    member = functional.one_hot(label, classes).T.float()
    count = member.sum(1) + 1
    mean = (member @ score + score.mean()) / count
    spread = member * (score - mean[:, None]).square()
    deviation = ((spread.sum(1) + score.var(correction=0)) / count).sqrt()
    return mean, deviation.clamp(min=LEAST)
