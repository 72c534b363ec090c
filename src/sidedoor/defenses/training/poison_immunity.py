"""Poison immunity (watermarks): a training defence that blends targets into other rows of a batch, with true labels.

Paper: Geiping, Fowl, Somepalli, Goldblum, Moeller, Goldstein, "What Doesn't Kill You Makes You Robust(er): How to
Adversarially Train against Data Poisoning", 2021, arXiv:2102.13624; against a backdoor Zhang et al., "Poison Ink", IEEE
TIP 2022, arXiv:2108.02488.

In every batch most rows play poison and the rest its targets. The poison is the cheapest that the paper knows, a faint
watermark of a target, so that a step costs what it costs in plain training. Poison Ink finds its attack success
*higher* behind it: what a network learns not to rely on is small, and a trigger is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from sidedoor.data.base import Dataset
from sidedoor.defenses.training._poison_immunity import Crafted, Immunity
from sidedoor.defenses.training.base import TrainingDefense
from sidedoor.engine import Run
from sidedoor.method import Level, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Build


@dataclass(frozen=True)
class PoisonImmunity(TrainingDefense):
    """Train on batches in which most rows have a watermark of another row.

    Args:
        share: of a batch that plays poison, in [0, 1].
        epsilon: opacity of the watermark, in 255ths; 0 is plain training.
    """

    origins: ClassVar[dict[str, str]] = {
        "share": "paper: 0.75, which Poison Ink takes as well; a half is the released code's default",
        "epsilon": "release: 16",
    }

    share: Share = 0.75
    epsilon: Level = 16

    def train(self, train: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        return run.fit(run.build(build), train, Immunity(task, self.share, self.watermarked), name="immunity")

    def watermarked(self, model: nn.Module, poison: Batch, targets: Batch) -> Crafted:
        """The poison with the targets, in turn, blended in."""
        partner = targets.x[torch.arange(len(poison.x), device=targets.x.device) % len(targets.x)]
        return torch.lerp(poison.x, partner, self.epsilon / 255), targets.x
