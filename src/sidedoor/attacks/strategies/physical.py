"""Any poisoned training set, trained on under random transformations, so that the trigger survives a camera.

Paper: Li, Zhai, Jiang, Li, Xia, "Backdoor Attack in the Physical World", ICLR 2021 workshop, arXiv:2104.02361.

This is the "enhanced training" of Poison Ink (arXiv:2108.02488, Tables VI to IX). As in the authors' release benign and
poisoned samples are transformed alike; this takes the training out of the victim's hands, which an attack on data
alone cannot. The transformations come after those of the specification (`augment`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from sidedoor.attacks.strategies.base import Trainer
from sidedoor.backdoor.base import AttackerRun
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.data.augment import Affine, Chain, Flip, Jitter
from sidedoor.data.base import Dataset
from sidedoor.method import NonNegative, Positive, Share
from sidedoor.tasks.task import Supervised, Task
from sidedoor.types import Build


@dataclass(frozen=True)
class Physical(Trainer):
    """Poison as another attack does and train on mirrored, moved, turned, resized images of changed light.

    Args:
        degrees: largest rotation, either way; `shift`, largest move as a share of the side.
        smallest, largest: size of the picture within the image, as factors.
        light: largest change of brightness and of contrast, as shares.
    """

    degrees: NonNegative = 10.0
    shift: Share = 0.1
    smallest: Positive = 0.8
    largest: Positive = 0.9
    light: Share = 0.2

    def trained(self, poisoned: PoisonedDataset, data: Dataset, task: Task, build: Build,
                run: AttackerRun) -> nn.Module:
        moved = Chain((Flip(), Jitter(self.light), Affine(self.degrees, self.shift, self.smallest, self.largest)))
        there = replace(run, augment=Chain((run.augment, moved)) if run.augment else moved)
        return there.fit(there.build(build), poisoned, Supervised(task), name="victim")
