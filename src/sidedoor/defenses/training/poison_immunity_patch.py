"""Poison immunity (patches): a training defence that stamps random patches, whose classes it then contradicts.

Paper: Geiping, Fowl, Somepalli, Goldblum, Moeller, Goldstein, "What Doesn't Kill You Makes You Robust(er): How to
Adversarially Train against Data Poisoning", 2021, arXiv:2102.13624, its craft against backdoor triggers.

In every batch most rows play poison and the rest its targets. Each class has a random patch, drawn anew for the batch;
the poison of a class carries the class's own and a target another class's, all with true labels. So the network sees
that a patch says nothing of the class, as long as it is like those that are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.data.base import Dataset
from sidedoor.defenses.training._poison_immunity import Crafted, Immunity
from sidedoor.defenses.training.base import TrainingDefense
from sidedoor.engine import Run
from sidedoor.image.geometry import covered
from sidedoor.method import Share
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Build, Images


@dataclass(frozen=True)
class PoisonImmunityPatch(TrainingDefense):
    """Train on batches in which each row carries a patch: the poison that of its class, the targets another's.

    Args:
        share: of a batch that plays poison, in [0, 1].
        smallest: side of a patch, as a share of the image's shorter one.
        largest: side of a patch, as such a share.
    """

    origins: ClassVar[dict[str, str]] = {
        "share": "paper: 0.75", "smallest": "release: 10 %", "largest": "release: 40 %",
    }

    share: Share = 0.75
    smallest: Share = 0.1
    largest: Share = 0.4

    def train(self, train: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        def crafted(model: nn.Module, poison: Batch, targets: Batch) -> Crafted:
            return self.stamped(poison, targets, task.classes)

        return run.fit(run.build(build), train, Immunity(task, self.share, crafted), name="immunity")

    def stamped(self, poison: Batch, targets: Batch, classes: int) -> Crafted:
        """Poison with the patches of its classes, and targets with those of the classes that a shift leads to."""
        mask, pattern = self.patches(poison.x, classes)
        shift = 1 + int(torch.randint(max(classes - 1, 1), ()))  # a derangement of the classes

        def with_patch(x: Images, label: Tensor) -> Images:
            return torch.lerp(x, pattern[label], mask[label].expand_as(x))

        return with_patch(poison.x, poison.y), with_patch(targets.x, (targets.y + shift) % classes)

    def patches(self, like: Images, classes: int) \
            -> tuple[Float[Tensor, "classes 1 h w"], Float[Tensor, "classes c h w"]]:
        """Where the patch of each class is, and its black and white pixels; one side for all, places of their own."""
        height, width = like.shape[2:]
        share = self.smallest + (self.largest - self.smallest) * float(torch.rand(()))
        side = max(1, round(share * min(height, width)))
        blank = like.new_zeros(classes, *like.shape[1:])
        room = like.new_tensor([height - side + 1, width - side + 1])
        corner = (torch.rand(classes, 2, device=like.device) * room).long()
        return covered(blank, corner, side), (torch.rand_like(blank) < 0.5).to(like.dtype)
