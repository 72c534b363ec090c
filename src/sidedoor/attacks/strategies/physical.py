"""Physical strategy: any poisoned data, trained on under random transformations; training-controlled.

Paper: Li, Zhai, Jiang, Li, Xia, "Backdoor Attack in the Physical World", ICLR 2021 workshop, arXiv:2104.02361.

This is the "enhanced training" of Poison Ink (arXiv:2108.02488, Tables VI to IX), after which a trigger survives a
camera. As in the authors' release benign and poisoned samples are transformed alike, which takes control of the
training. The transformations come after those of the specification (`augment`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from sidedoor.attacks.strategies.base import TrainingStrategy
from sidedoor.backdoor.base import AttackerRun
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.data.augment import Affine, Chain, Flip, Jitter
from sidedoor.data.base import Dataset
from sidedoor.method import NonNegative, Positive, Share
from sidedoor.tasks.task import Supervised, Task
from sidedoor.types import Build


@dataclass(frozen=True)
class Physical(TrainingStrategy):
    """Poison as another attack does, and train on flipped, shifted, rotated, resized images of jittered brightness.

    Args:
        degrees: largest rotation, either way; `shift`, the largest as a share of the side.
        smallest, largest: size of the picture within the image, as factors.
        light: largest change of brightness and of contrast, as shares.
    """

    origins: ClassVar[dict[str, str]] = TrainingStrategy.origins | {
        "degrees": "release: 10 (BackdoorBox)", "shift": "release: 0.1 (BackdoorBox)",
        "smallest": "release: 0.8 (BackdoorBox)", "largest": "release: 0.9 (BackdoorBox)",
        "light": "release: 0.2 (BackdoorBox)",
    }

    degrees: NonNegative = 10.0
    shift: Share = 0.1
    smallest: Positive = 0.8
    largest: Positive = 0.9
    light: Share = 0.2

    def train_on(self, poisoned: PoisonedDataset, data: Dataset, task: Task, build: Build,
                 run: AttackerRun) -> nn.Module:
        moved = Chain((Flip(), Jitter(self.light), Affine(self.degrees, self.shift, self.smallest, self.largest)))
        there = replace(run, augment=Chain((run.augment, moved)) if run.augment else moved)
        return there.fit(there.build(build), poisoned, Supervised(task), name="victim")
