"""CutMix: a purifier that replaces a random square of each input by that of another image.

Paper: Yun, Han, Oh, Chun, Choe, Yoo, "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
Features", ICCV 2019, arXiv:1905.04899; at test time Zhang et al., "Poison Ink", IEEE TIP 2022, arXiv:2108.02488,
Table XII, which leaves the size of the square open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.core import random
from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.defenses.purifiers.base import Purifier, in_place
from sidedoor.defenses.purifiers.mixup import partners
from sidedoor.engine import Run
from sidedoor.image.geometry import covered
from sidedoor.method import Share
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Index, Purify


@dataclass(frozen=True)
class CutMix(Purifier):
    """Paste a square of one of the defender's images; image and place depend on seed and index only.

    Args:
        share: the square's side, as a share of the image's shorter one.
    """

    origins: ClassVar[dict[str, str]] = {"share": "ours: as in Cutout"}
    needs: ClassVar[Needs] = Needs(clean="images")

    share: Share = 0.5

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Purify:
        seed, partner = run.rng("positions").initial_seed(), partners(clean, run)

        def purify(x: Images, index: Index) -> Images:
            return torch.lerp(x, partner(x, index), squares(x, index, self.share, seed))

        return in_place(purify)


def squares(x: Images, index: Index, share: float, seed: int) -> Float[Tensor, "b 1 h w"]:
    """1 in a square of each image, its side a share of the image's shorter one; 0 elsewhere."""
    height, width = x.shape[2:]
    side = round(share * min(height, width))
    room = x.new_tensor([height - side + 1, width - side + 1])
    return covered(x, (random.uniform(seed, index, 2) * room).long(), side)
