"""Cutout training: a training defence that blots out a random square of each image.

Paper: Borgnia, Cherepanova, Fowl, Ghiasi, Geiping, Goldblum, Goldstein, Gupta, "Strong Data Augmentation Sanitizes
Poisoning and Backdoor Attacks Without an Accuracy Tradeoff", ICASSP 2021, arXiv:2011.09527, with the Cutout of DeVries,
Taylor, 2017, arXiv:1708.04552; `copies` is the MaxUp of Gong et al., 2020, arXiv:2002.09024.

Squares lie anywhere inside an image, where DeVries and Taylor let them reach out. They get the mean colour of the
batch, which after normalisation is about 0, as in the paper. Only triggers smaller than an image can be blotted out.
The recipe is the victim's; the released code trains 40 epochs at a learning rate of 0.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from sidedoor.algorithms.mixtures import Mixture, OnMixtures
from sidedoor.data.base import Dataset
from sidedoor.defenses.training.base import TrainingDefense
from sidedoor.engine import Run
from sidedoor.image.geometry import covered
from sidedoor.method import Count, Share, Whole
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Build


@dataclass(frozen=True)
class CutoutTraining(TrainingDefense):
    """Train on images without a square, at a place drawn for each.

    Args:
        share: the square's side, as a share of the image's shorter one.
        copies: of each image, of which the one of largest loss counts; a step takes as many times as long.
        after: epochs with a single copy before.
    """

    origins: ClassVar[dict[str, str]] = {
        "share": "release: 16 of 32 pixels", "copies": "release: MaxUp, off unless asked for, has 4",
        "after": "release",
    }

    share: Share = 0.5
    copies: Count = 1
    after: Whole = 5

    def train(self, train: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        objective = OnMixtures(self.mixed, self.copies, self.after)
        return run.fit(run.build(build), train, objective, name="cutout")

    def mixed(self, batch: Batch) -> Mixture:
        """A batch without squares; labels are as they were."""
        x = batch.x
        height, width = x.shape[2:]
        side = round(self.share * min(height, width))
        room = x.new_tensor([height - side + 1, width - side + 1])
        square = covered(x, (torch.rand(len(x), 2, device=x.device) * room).long(), side)
        return Mixture(torch.lerp(x, x.mean((0, 2, 3), keepdim=True).expand_as(x), square), batch.y[None],
                       x.new_ones(1, len(x)))
