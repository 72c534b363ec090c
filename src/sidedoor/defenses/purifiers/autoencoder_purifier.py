"""Autoencoder purifier: inputs pass through an autoencoder of clean images, which cannot draw what it never saw.

Paper: Liu, Xie, Srivastava, "Neural Trojans", ICCD 2017, arXiv:1710.00942, section on input preprocessing.

Ours is the registered network `autoencoder` of convolutions, where the paper has fully connected layers for digits. It
is trained on the defender's images by cross-entropy between pixels, whatever the classifier. What survives the
bottleneck survives: a trigger that is large and smooth may.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional

from sidedoor.algorithms.restorer import Restored, restorer
from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.defenses.purifiers.base import Purifier, in_place
from sidedoor.engine import Run
from sidedoor.method import Count
from sidedoor.models.autoencoder import autoencoder
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Index, Purify


@dataclass(frozen=True)
class AutoencoderPurifier(Purifier):
    """Replace inputs by what an autoencoder makes of them.

    Args:
        kernel: of its convolutions, in pixels.
        steps: of its training, with 32 images each.
    """

    origins: ClassVar[dict[str, str]] = {"kernel": "ours: as in `autoencoder`", "steps": "ours: a minute on a CPU"}
    quick: ClassVar[dict[str, Any]] = {"steps": 2}
    needs: ClassVar[Needs] = Needs(clean="images")

    kernel: Literal[3, 5] = 5
    steps: Count = 1000

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Purify:
        shape, objective = clean.shape, Restored(lambda x: x, functional.binary_cross_entropy_with_logits)
        network = restorer(clean, lambda: autoencoder(shape, 1, self.kernel), objective, self.steps, run,
                           {"method": "autoencoder_purifier", "version": self.version, "kernel": self.kernel})

        @torch.no_grad()
        def purify(x: Images, index: Index) -> Images:
            with run.autocast():
                return torch.sigmoid(network(x).to(x.dtype))

        return in_place(purify)
