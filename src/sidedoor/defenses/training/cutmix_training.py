"""CutMix training: a training defence that pastes boxes of other images in, and mixes the labels by area.

Paper: Borgnia, Cherepanova, Fowl, Ghiasi, Geiping, Goldblum, Goldstein, Gupta, "Strong Data Augmentation Sanitizes
Poisoning and Backdoor Attacks Without an Accuracy Tradeoff", ICASSP 2021, arXiv:2011.09527, with the CutMix of Yun et
al., ICCV 2019, arXiv:1905.04899; `copies` is the MaxUp of Gong et al., 2020, arXiv:2002.09024.

The released code draws one box for a whole batch; ours draws the size for a batch and the place for each image. Only
triggers smaller than an image can be cut away. The recipe is the victim's; the released code trains 40 epochs at a
learning rate of 0.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.mixtures import Mixture, OnMixtures
from sidedoor.data.base import Dataset
from sidedoor.defenses.training.base import TrainingDefense
from sidedoor.engine import Run
from sidedoor.method import Count, Share, Whole
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Build, Images


@dataclass(frozen=True)
class CutMixTraining(TrainingDefense):
    """Train on images in which a box, of an area drawn uniformly, is another image's.

    Args:
        probability: that a batch is cut, in [0, 1].
        copies: of each image, of which the one of largest loss counts; a step takes as many times as long.
        after: epochs with a single copy before.
    """

    origins: ClassVar[dict[str, str]] = {
        "probability": "release: 1/2, as Yun et al. on CIFAR", "copies": "release: MaxUp, off unless asked for, has 4",
        "after": "release",
    }

    probability: Share = 0.5
    copies: Count = 1
    after: Whole = 5

    def train(self, train: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        objective = OnMixtures(self.mixed, self.copies, self.after)
        return run.fit(run.build(build), train, objective, name="cutmix")

    def mixed(self, batch: Batch) -> Mixture:
        """A batch with boxes of a permutation of it."""
        x, b = batch.x, len(batch.x)
        cut, area = torch.rand(2).tolist()
        box = boxes(x, area if cut < self.probability else 0.0)
        order = torch.randperm(b, device=x.device)
        other = box.mean((1, 2, 3))
        return Mixture(torch.lerp(x, x[order], box), torch.stack([batch.y, batch.y[order]]),
                       torch.stack([1 - other, other]))


def boxes(x: Images, area: float) -> Float[Tensor, "b 1 h w"]:
    """1 in a box of an image's shape and of a share of its area, its centre anywhere in it; 0 elsewhere."""
    def inside(length: int) -> Tensor:
        centre = torch.randint(length, (len(x), 1), device=x.device)
        start = centre - round(length * area**0.5) // 2
        place = torch.arange(length, device=x.device)
        found: Tensor = (place >= start) & (place < start + round(length * area**0.5))
        return found

    rows, columns = (inside(length) for length in x.shape[2:])
    box: Tensor = rows[:, None, :, None] & columns[:, None, None, :]
    return box.to(x.dtype)
