"""Generalization-limited backdoor watermark (GLBW): a backdoor that hardly anything but its own trigger opens.

Paper: Ya, Li, Dai, Wang, Jiang, Xia, "Towards Faithful XAI Evaluation via Generalization-Limited Backdoor Watermark",
ICLR 2024, equation 6.

Made to evaluate explanations: only then is the trigger the reason of what the model says. Each epoch reverses a trigger
that leads to the target; where more than 5 % of it lies on the true one, it is sought again with that area forbidden.
The release restarts a reversal with another cost where the mask is too large or too weak; here the cost follows success
within one reversal, as in Neural Cleanse, and a trigger more than four times as large as the true one is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sidedoor.algorithms.inversion.mask_pattern import Recovered
from sidedoor.attacks.strategies._generalization_limited import Area, GeneralizationLimited, Search, overlap
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.method import Share


@dataclass(frozen=True)
class Glbw(GeneralizationLimited):
    """Train away triggers that lie beside the true one.

    Args:
        overlap: largest share of a reversed trigger that may lie on the true one.
    """

    origins: ClassVar[dict[str, str]] = GeneralizationLimited.origins | {"overlap": "release: 0.05"}

    overlap: Share = 0.05

    def search(self, data: Dataset, target: int) -> Search:
        def found(model: nn.Module, area: Area, run: Run) -> Recovered:
            size = int(area.sum())
            free = self.inversion(size).recover(model, data, [target], run)
            if overlap(free.mask[0], area) <= self.overlap:
                return free
            return self.inversion(size, forbidden=area).recover(model, data, [target], run)

        return found
