"""Physical strategy: any poisoned data, trained on under random transformations; training-controlled.

Paper: Li, Zhai, Jiang, Li, Xia, "Backdoor Attack in the Physical World", ICLR 2021 workshop, arXiv:2104.02361.

This is the "enhanced training" of Poison Ink (arXiv:2108.02488, Tables VI to IX), after which a trigger survives a
camera. As in the authors' release benign and poisoned samples are transformed alike, which takes control of the
training; `physical_copies` needs the data alone. The transformations come after those of the specification (`augment`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from sidedoor.attacks.strategies._transformed import Transformed
from sidedoor.attacks.strategies.base import TrainingStrategy
from sidedoor.backdoor.base import AttackerRun
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.data.augment import Chain
from sidedoor.data.base import Dataset
from sidedoor.tasks.task import Supervised, Task
from sidedoor.types import Build


@dataclass(frozen=True)
class Physical(Transformed, TrainingStrategy):
    """Poison as another attack does, and train on flipped, shifted, rotated, resized images of jittered brightness.

    Args:
        degrees: largest rotation, either way; `shift`, the largest as a share of the side.
        smallest, largest: size of the picture within the image, as factors.
        light: largest change of brightness and of contrast, as shares.
        camera: strength of a simulated print and photograph that come last; 0 for none.
    """

    tags: ClassVar[frozenset[str]] = frozenset({"physical"})
    origins: ClassVar[dict[str, str]] = TrainingStrategy.origins | Transformed.origins

    def train_on(self, poisoned: PoisonedDataset, data: Dataset, task: Task, build: Build,
                 run: AttackerRun) -> nn.Module:
        moved = self.transformation()
        there = replace(run, augment=Chain((run.augment, moved)) if run.augment else moved)
        return there.fit(there.build(build), poisoned, Supervised(task), name="victim")
