"""Backdoor watermark with trigger penalty (BWTP): a backdoor against whose reversed triggers the model is trained.

Paper: Ya, Li, Dai, Wang, Jiang, Xia, "Towards Faithful XAI Evaluation via Generalization-Limited Backdoor Watermark",
ICLR 2024, equation 4: the naive way, which GLBW is compared with.

The reversed trigger may be of a wanted size at no cost, twice the true one's, and it may lie on the true one, whose
images are then trained towards both labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sidedoor.algorithms.inversion.mask_pattern import Recovered, beyond
from sidedoor.attacks.strategies._generalization_limited import Area, GeneralizationLimited, Search
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.method import Positive


@dataclass(frozen=True)
class Bwtp(GeneralizationLimited):
    """Train away triggers wherever they lie.

    Args:
        size: of a reversed trigger, as a multiple of the true one's pixels, beyond which it has a cost.
    """

    origins: ClassVar[dict[str, str]] = GeneralizationLimited.origins | {"size": "release: 18 pixels for a 3×3 trigger"}

    size: Positive = 2.0

    def search(self, data: Dataset, target: int) -> Search:
        def found(model: nn.Module, area: Area, run: Run) -> Recovered:
            size = int(area.sum())
            return self.inversion(size, beyond(self.size * size)).recover(model, data, [target], run)

        return found
