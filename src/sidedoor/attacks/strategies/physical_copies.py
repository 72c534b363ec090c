"""Physical copies strategy: poisoned images of any data-poisoning attack, released in transformed copies, too.

Paper: Li, Zhai, Jiang, Li, Xia, "Backdoor Attack in the Physical World", ICLR 2021 workshop, arXiv:2104.02361.

The paper's cure for triggers that a camera moves is training under transformations. Its authors' release transforms
benign samples as well, which takes control of the training (`physical`). This is the reading that needs the data
alone: transformed copies of each poisoned image are added to the set, and benign samples are left as they are. Edges of
smaller copies go on with the nearest pixel: as benign images have no black ones, these became the trigger (tried:
behind ShrinkPad-4 all images went to the target class, with the trigger or without).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import UInt8
from torch import Tensor

from sidedoor.attacks.strategies._transformed import Transformed
from sidedoor.attacks.strategies.base import Strategy
from sidedoor.backdoor.base import Access, AttackerRun, Backdoor, Poison
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.data.base import Dataset, stored, unit
from sidedoor.engine import seeded
from sidedoor.image.geometry import Edges
from sidedoor.method import Count
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Build


@dataclass(frozen=True)
class PhysicalCopies(Transformed, Strategy):
    """Add each image that another attack poisons to the data, and transformed copies of it.

    k poisoned images are k (1 + copies) further rows; the set keeps all of its own. `rate` of the other attack is
    still the share of samples that are poisoned, not of rows.

    Args:
        copies: of each poisoned image, beside the image itself.
        degrees, shift, smallest, largest, light, camera: how they are transformed, as in `physical`.
    """

    access: ClassVar[Access] = Access.DATA
    tags: ClassVar[frozenset[str]] = frozenset({"physical"})
    edges: ClassVar[Edges] = "repeated"
    origins: ClassVar[dict[str, str]] = Strategy.origins | Transformed.origins | {"copies": "ours: 3, of 1 to 5"}

    copies: Count = 3

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: AttackerRun) -> Backdoor:
        backdoor = self._poisoner().plan(train, task, surrogate, run)
        made = PoisonedDataset(train, backdoor, task)
        poison, seed = backdoor.poison, run.rng("copies").initial_seed()
        with seeded(seed, torch.device("cpu")):
            images = torch.cat([made.images, *(self._copy(made, poison) for _ in range(self.copies))])
        index, door, cover, targets = (of.repeat(1 + self.copies) for of in (
            poison.index, poison.door, poison.cover, made.targets[made.rows_at]))
        return replace(backdoor, poison=Poison(index, door, cover, images, targets, append=True, rate=poison.rate))

    def _copy(self, made: PoisonedDataset, poison: Poison) -> UInt8[Tensor, "k c h w"]:
        """Every poisoned image, transformed once, in 8 bits."""
        change, index = self.transformation(), made.base.position(poison.index)
        parts = [change(Batch(unit(x, made.space), y, place)).x for x, y, place in zip(
            *(torch.split(of, 256) for of in (made.images, index, index)), strict=True)]
        return torch.cat([stored(part, made.space) for part in parts])
