"""Mixup training: a training defence that trains on weighted means of images, with their labels mixed alike.

Paper: Borgnia, Cherepanova, Fowl, Ghiasi, Geiping, Goldblum, Goldstein, Gupta, "Strong Data Augmentation Sanitizes
Poisoning and Backdoor Attacks Without an Accuracy Tradeoff", ICASSP 2021, arXiv:2011.09527, with the mixup of Zhang et
al., ICLR 2018, arXiv:1710.09412; of more than two images and with noise Borgnia et al., "DP-InstaHide", 2021,
arXiv:2103.02079; `copies` is the MaxUp of Gong et al., 2020, arXiv:2002.09024.

It is meant against poison that is crafted pixel by pixel. A visible trigger also survives in a mean: nothing is to be
expected against patches, or against triggers that cover the whole image. The recipe is the victim's; the released code
trains 40 epochs at a learning rate of 0.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.distributions import Dirichlet, Laplace

from sidedoor.algorithms.mixtures import Mixture, OnMixtures
from sidedoor.data.base import Dataset
from sidedoor.defenses.training.base import TrainingDefense
from sidedoor.engine import Run
from sidedoor.method import Count, NonNegative, Whole
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Build


@dataclass(frozen=True)
class MixupTraining(TrainingDefense):
    """Train on means of each batch with permutations of it, weighted at random, the same for a whole batch.

    Args:
        parts: images in each mean, its own among them; 1 is plain training.
        noise: scale of Laplacian noise on the means, in 8-bit levels.
        copies: means of each image, of which the one of largest loss counts; a step takes as many times as long.
        after: epochs with a single copy before.
    """

    origins: ClassVar[dict[str, str]] = {
        "parts": "release: 2; 4 in DP-InstaHide", "noise": "release: none; 16 in DP-InstaHide",
        "copies": "release: MaxUp, off unless asked for, has 4", "after": "release",
    }

    parts: Count = 2
    noise: NonNegative = 0.0
    copies: Count = 1
    after: Whole = 5

    def train(self, train: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        objective = OnMixtures(self.mixed, self.copies, self.after)
        return run.fit(run.build(build), train, objective, name="mixup")

    def mixed(self, batch: Batch) -> Mixture:
        """A batch with `parts` - 1 permutations of it."""
        x, b = batch.x, len(batch.x)
        weights = Dirichlet(x.new_ones(self.parts)).sample()
        order = torch.stack([torch.arange(b, device=x.device),
                             *(torch.randperm(b, device=x.device) for _ in range(self.parts - 1))])
        mean = (weights[:, None, None, None, None] * x[order]).sum(0)
        if self.noise:
            mean = mean + Laplace(0.0, self.noise / 255).sample(mean.shape).to(mean)
        return Mixture(mean, batch.y[order], weights[:, None].expand(-1, b))
